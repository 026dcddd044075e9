"""CLIP's tokenizer: text -> byte-pair ids, equal to the published one for any text."""

import contextlib
import functools
import gzip
import heapq
import html
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import regex

VOCABULARY_FILE = Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
MERGE_COUNT = 49152 - 256 - 2  # CLIP uses the first merges of the file only
WORD = regex.compile(r"<\|(?:start|end)oftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
CACHED_WORDS = 1 << 17  # Chinese clauses are "words" too: without a bound the cache would grow with the data
CACHED_LETTERS = 64
GONE = -1  # no symbol's id


class Tokenizer:
    """Texts to token ids; builds CLIP's merge table once (about 0.1 s). Safe to share between threads."""

    def __init__(self) -> None:
        symbols, self._merges = read_vocabulary(VOCABULARY_FILE)
        self.vocab_size = len(symbols) + 2
        self.start_id, self.end_id = self.vocab_size - 2, self.vocab_size - 1
        self._symbols = list(symbols)  # by id
        self._byte_ids = [symbols[character] for character in byte_characters()]
        self._last_byte_ids = [symbols[character + "</w>"] for character in byte_characters()]
        self._cache = {"<|startoftext|>": [self.start_id], "<|endoftext|>": [self.end_id]}
        self._special = dict(self._cache)

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`, without start and end; empty for an empty text.

        As published, the text is repaired by ftfy, HTML entities are resolved twice, case is dropped, and a
        literal "<|endoftext|>" in the text becomes the end token.
        """
        cache = self._cache
        ids: list[int] = []
        for word in WORD.findall(clean(text)):
            known = cache.get(word)
            ids += self._encode_word(word) if known is None else known
        return ids

    def tokenize(self, text: str, max_tokens: int) -> tuple[list[int], int]:
        """(ids, cut): the ids with start and end, at most `max_tokens` (>= 2), and how many tokens were lost.

        A longer text keeps its end token.
        """
        if max_tokens < 2:
            raise ValueError(f"max_tokens is {max_tokens}; the start and end tokens alone need 2")
        ids = self.encode(text)
        cut = max(0, len(ids) + 2 - max_tokens)
        return [self.start_id, *ids[: max_tokens - 2], self.end_id], cut

    def pieces(self, ids: Iterable[int]) -> list[tuple[str, int]]:
        """Token ids -> [(text, number of tokens)]: a text per token, or per group of tokens which share a character.

        A text that ends a word ends with a space. Start and end token are "<start>" and "<end>"; what is left of a
        character that was cut in two is "\ufffd".
        """
        value_of = {character: value for value, character in enumerate(byte_characters())}
        pieces, pending, tokens = [], b"", 0
        for number in ids:
            if number in (self.start_id, self.end_id):
                if pending:
                    pieces.append(("\ufffd", tokens))
                pieces.append(("<start>" if number == self.start_id else "<end>", 1))
                pending, tokens = b"", 0
                continue
            symbol = self._symbols[number]
            letters = symbol.removesuffix("</w>")
            pending += bytes(value_of[letter] for letter in letters)
            tokens += 1
            with contextlib.suppress(UnicodeDecodeError):
                pieces.append((pending.decode("utf-8") + (" " if letters != symbol else ""), tokens))
                pending, tokens = b"", 0
        return pieces if not pending else [*pieces, ("\ufffd", tokens)]

    def unreadable(self, ids: Iterable[int]) -> int:
        """How many of the ids are bytes of a character, whole by themselves to no reader and seldom met in training."""
        return sum(number in self._byte_pieces for number in ids)

    @functools.cached_property
    def _byte_pieces(self) -> frozenset[int]:
        values = {character: value for value, character in enumerate(byte_characters())}
        found = set()
        for number, symbol in enumerate(self._symbols):
            try:
                bytes(values[letter] for letter in symbol.removesuffix("</w>")).decode()
            except UnicodeDecodeError:
                found.add(number)
        return frozenset(found)

    def _encode_word(self, word: str) -> list[int]:
        *head, last = word.encode("utf-8")
        ids = [self._byte_ids[byte] for byte in head]
        ids.append(self._last_byte_ids[last])
        ids = apply_merges(ids, self._merges)
        if len(word) <= CACHED_LETTERS:
            if len(self._cache) >= CACHED_WORDS:
                self._cache = dict(self._special)
            self._cache[word] = ids
        return ids


def clean(text: str) -> str:
    """Repair, unescape and lower-case a text as CLIP does.

    ftfy changes nothing in printable ASCII without "&", which is most captions, and would take half of the
    time. CLIP also collapses white space, which no token contains.
    """
    if not (text.isascii() and text.replace("\n", " ").isprintable() and "&" not in text):
        import ftfy  # here: plain English texts do without it

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return text.lower()


def byte_characters() -> list[str]:
    """The printable character that stands for each of the 256 bytes in the vocabulary file."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(substitutes)) for byte in range(256)]


def read_vocabulary(path: str | os.PathLike[str]) -> tuple[dict[str, int], dict[tuple[int, int], tuple[int, int]]]:
    """({symbol: id}, {(left id, right id): (rank, id of the two joined)}) of a BPE merge file (gzip)."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : MERGE_COUNT + 1]
    # Ids: the bytes which print as themselves, the other bytes, the same at a word's end, then every merge.
    letters = sorted(byte_characters())
    symbols = letters + [letter + "</w>" for letter in letters]
    pairs = [tuple(line.split()) for line in lines]
    symbols += [left + right for left, right in pairs]
    ids = {symbol: number for number, symbol in enumerate(symbols)}
    merges = {(ids[a], ids[b]): (rank, ids[a + b]) for rank, (a, b) in enumerate(pairs)}
    return ids, merges


def apply_merges(ids: list[int], merges: Mapping[tuple[int, int], tuple[int, int]]) -> list[int]:
    """Byte-pair encode one word: `ids` of its bytes -> ids after all merges, in O(n log n).

    A round merges every occurrence of the pair with the lowest rank, from left to right, before the next pair
    is looked for: a symbol made in this round may form a pair of a lower rank still (it can be made in two
    ways), and that pair has to wait. Such a new pair never has this round's rank: its symbol is longer than
    both of this round's.
    """
    n = len(ids)
    ids = [*ids, GONE]  # it stands for the end and for a symbol that was merged away; no pair holds it
    right = list(range(1, n + 2))
    left = list(range(-1, n))
    queue = []  # rank * n + position: ordered by rank, then from left to right; entries may be out of date

    def find_merge(position: int) -> tuple[int, int] | None:
        return merges.get((ids[position], ids[right[position]]))

    for position in range(n - 1):
        if merge := find_merge(position):
            queue.append(merge[0] * n + position)
    heapq.heapify(queue)
    while queue:
        rank = queue[0] // n
        positions = []
        while queue and queue[0] // n == rank:
            positions.append(heapq.heappop(queue) % n)
        for position in positions:
            merge = find_merge(position)
            if merge is None or merge[0] != rank:  # out of date
                continue
            second = right[position]
            after = right[second]
            ids[position], ids[second] = merge[1], GONE
            right[position], left[after] = after, position
            for start in (left[position], position):
                if start >= 0 and (new := find_merge(start)):
                    heapq.heappush(queue, new[0] * n + start)
    return [number for number in ids if number != GONE]
