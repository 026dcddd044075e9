"""A tokenizer of the transformers library as a tower's: texts to ids, ids to pieces, and its files for a checkpoint."""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules.backbones.hub import REQUIREMENTS, import_transformers, read_json_of
from modules.tokenizer import byte_characters
from util import InputError, first_line

UNLIMITED = 1_000_000  # a `model_max_length` above it is the library's placeholder for none
FILE_NAME = re.compile(r"\w[\w.-]*\.(?:json|txt|model|vocab|bpe)", re.ASCII)  # of vocabularies; never of code
BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a byte of a character that the vocabulary lacks
WORD_START = "▁"  # SentencePiece's
CHINESE = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


class HuggingFaceTokenizer:
    """Texts to token ids, with the special tokens that the tokenizer puts around a text. Safe to share between threads.

    `pad_id`: what the tower was trained to see behind a text, 0 where the tokenizer has none. `max_length`: the most
    tokens that the tokenizer says are read, or None. `vocab_size`: one more than the highest id.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
            self._backend.encode_special_tokens = tokenizer.split_special_tokens
        self.pad_id: int = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.pads_left: bool = tokenizer.padding_side == "left"
        limit = tokenizer.model_max_length
        self.max_length: int | None = None if limit is None or limit > UNLIMITED else int(limit)
        self.vocab_size: int = 1 + max(tokenizer.get_vocab().values())
        whole, body = self.encode("a"), self.encode("a", around=False)
        places = range(len(whole) - len(body) + 1)
        start = next((place for place in places if whole[place : place + len(body)] == body), 0)
        self._before, self._after = whole[:start], whole[start + len(body) :]
        model: Any = None if self._backend is None else self._backend.model
        self._word_end: str = getattr(model, "end_of_word_suffix", None) or ""
        self._continues: str = model.continuing_subword_prefix if type(model).__name__ == "WordPiece" else ""
        parts = [] if self._backend is None else [self._backend.pre_tokenizer, self._backend.decoder]
        self._of_bytes = any(part is not None and b"ByteLevel" in part.__getstate__() for part in parts)

    @classmethod
    def load(cls, name: str | os.PathLike[str], local_files_only: bool = False) -> HuggingFaceTokenizer:
        """The tokenizer of a model on the hub, or of a folder. InputError where there is none."""
        transformers = import_transformers()
        try:
            read_json_of(str(name), "tokenizer_config.json")  # the library goes without where it cannot be asked for
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(name), trust_remote_code=False, local_files_only=local_files_only
            )
            if len(tokenizer) <= len(tokenizer.all_special_tokens):
                raise ValueError("it knows no words: a file is missing, such as tokenizer.json")
            return cls(tokenizer)
        except Exception as error:  # the files are a stranger's, and the library raises whatever they lead it to
            hint = f" (pip install -r {REQUIREMENTS})" if isinstance(error, ImportError) else ""
            raise InputError(f"the tokenizer of {name} cannot be read: {first_line(error)}{hint}") from error

    @classmethod
    def of_files(cls, files: Mapping[str, torch.Tensor]) -> HuggingFaceTokenizer:
        """The tokenizer that `files` gave. InputError where they are no tokenizer's; no code of theirs is run."""
        if not isinstance(files, Mapping) or not files:
            raise InputError("the checkpoint holds no tokenizer files")
        for name, content in files.items():
            if not isinstance(name, str) or FILE_NAME.fullmatch(name) is None:
                raise InputError(f"the checkpoint's tokenizer has a file {str(name)[:80]!r}, which no tokenizer has")
            if not isinstance(content, torch.Tensor) or content.dtype != torch.uint8 or content.ndim != 1:
                raise InputError(f"the checkpoint's tokenizer file {name} is no array of bytes")
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content.cpu().numpy().tobytes())
            try:
                return cls.load(folder, local_files_only=True)
            except InputError as error:
                raise InputError(str(error).replace(folder, "the checkpoint")) from error

    def files(self) -> dict[str, torch.Tensor]:
        """The tokenizer's files, as bytes by name, for a checkpoint."""
        with tempfile.TemporaryDirectory() as folder:
            self._tokenizer.save_pretrained(folder)
            paths = sorted(path for path in Path(folder).iterdir() if FILE_NAME.fullmatch(path.name))
            return {path.name: torch.from_numpy(np.fromfile(path, dtype=np.uint8)) for path in paths}

    def encode(self, text: str, around: bool = True) -> list[int]:
        """The token ids of a text of any length, with the special tokens around it or without."""
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a character that takes two in UTF-16
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if self._backend is not None:
            return self._backend.encode(text, add_special_tokens=around).ids
        return self._tokenizer(text, add_special_tokens=around, verbose=False)["input_ids"]

    def tokenize(self, text: str, max_tokens: int) -> tuple[list[int], int]:
        """(ids, cut): the ids with what starts and ends a text, at most `max_tokens`; how many were lost to that.

        A longer text keeps its end. Where nothing surrounds a text, an empty one is one token of padding.
        """
        after = self._after
        if max_tokens < max(1, len(self._before) + len(after)):
            raise ValueError(f"max_tokens is {max_tokens}; {len(self._before) + len(after)} surround every text")
        ids = self.encode(text) or [self.pad_id]
        cut = max(0, len(ids) - max_tokens)
        return (ids[: max_tokens - len(after)] + after, cut) if cut else (ids, 0)

    def pieces(self, ids: Iterable[int]) -> list[tuple[str, int]]:
        """Token ids -> [(text, number of tokens)]: a text per token, or per group of tokens which share a character.

        A text that ends a word ends with a space, but for one beside a Chinese character. What starts and ends a text
        is "<start>" and "<end>"; what is left of a character that was cut in two is "\ufffd".
        """
        pieces: list[tuple[str, int]] = []
        pending, tokens, within = b"", 0, False  # within: the last piece is of a word that may go on

        def close(text: str) -> None:
            """End what is pending, and the last word with a space where `text`, which follows, leaves one."""
            nonlocal pending, tokens, within
            if tokens:
                pieces.append(("\ufffd" if pending else "", tokens))
                pending, tokens = b"", 0
            if within and not (CHINESE.match(text) or CHINESE.match(pieces[-1][0][-1:])):
                pieces[-1] = (pieces[-1][0] + " ", pieces[-1][1])
            within = False

        for number in ids:
            mark = self._mark(number)
            if mark is not None:
                close("")
                pieces.append((mark, 1))
                continue
            content, starts, ends = self._content(number)
            if starts:
                close(content.decode(errors="ignore"))
            pending += content
            tokens += 1
            try:
                text = pending.decode()
            except UnicodeDecodeError:
                continue
            if text:
                pieces.append((text + (" " if ends else ""), tokens))
                pending, tokens, within = b"", 0, not self._word_end
        close("")
        return pieces

    def unreadable(self, ids: Sequence[int]) -> int:
        """How many of the ids are no word or part of one to the tower: unknown, or bytes of a character."""
        return sum(number in self._unreadable for number in ids)

    @functools.cached_property
    def _unreadable(self) -> frozenset[int]:
        unknown = self._tokenizer.unk_token_id
        found = {unknown} - {None, *self._before, *self._after}
        for symbol, number in self._tokenizer.get_vocab().items():
            if self._of_bytes:
                try:
                    self._content(number)[0].decode()
                except UnicodeDecodeError:
                    found.add(number)
            elif BYTE.fullmatch(symbol):
                found.add(number)
        return frozenset(found)

    def _mark(self, number: int) -> str | None:
        """How a special token is shown; None for any other."""
        if number in self._before:
            return "<start>"
        if number in self._after:
            return "<end>"
        if number in self._tokenizer.all_special_ids:
            return str(self._tokenizer.convert_ids_to_tokens(number))
        return None

    def _content(self, number: int) -> tuple[bytes, bool, bool]:
        """(the bytes of a token's text, whether it starts a word, whether it ends one, as far as it tells)."""
        symbol = str(self._tokenizer.convert_ids_to_tokens(number))
        if self._continues:
            return symbol.removeprefix(self._continues).encode(), not symbol.startswith(self._continues), False
        letters = symbol.removesuffix(self._word_end)
        ends = letters != symbol
        if self._of_bytes:
            values = [BYTE_OF.get(letter) for letter in letters]
            content = letters.encode() if None in values else bytes(value for value in values if value is not None)
            return content.removeprefix(b" "), content.startswith(b" "), ends
        byte = BYTE.fullmatch(symbol)
        if byte is not None:
            return bytes([int(byte[1], 16)]), False, False
        return letters.removeprefix(WORD_START).replace(WORD_START, " ").encode(), symbol.startswith(WORD_START), ends


BYTE_OF = {character: value for value, character in enumerate(byte_characters())}
