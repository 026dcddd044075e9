"""How much of a split's texts the text tower can read, by the script that they are written in."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import regex

from dataloaders.token_table import TextTokenizer, TokenTable

# Scripts by name, the telling ones first: Japanese has Chinese characters too, any text may have a Latin word.
SCRIPTS = {
    **{"Japanese": r"[\p{Hiragana}\p{Katakana}]", "Korean": r"\p{Hangul}", "Chinese": r"\p{Han}"},
    **{"Arabic": r"\p{Arabic}", "Cyrillic": r"\p{Cyrillic}", "Devanagari": r"\p{Devanagari}", "Greek": r"\p{Greek}"},
    **{"Hebrew": r"\p{Hebrew}", "Thai": r"\p{Thai}"},
    "other": r"[\p{L}--\p{Latin}]",
    "Latin": r"\p{Latin}",
}
PATTERN = regex.compile("|".join(f"({letters})" for letters in SCRIPTS.values()), regex.VERSION1)
MUCH = 0.1  # of the tokens: from here on the towers are the wrong ones for the texts
FEW = 0.01  # of the tokens of a script: where all have fewer, nothing is said


def script_of(text: str) -> str:
    """The script of a text: Latin only where no other has a fifth of its letters, `none` where there are no letters.

    Where none has a fifth, it is the most frequent one.
    """
    if text.isascii():  # most are, and need no look at each letter
        return "Latin" if text.lower() != text.upper() else "none"
    places = [found.lastindex for found in PATTERN.finditer(text)]
    if not places:
        return "none"
    counts = np.bincount([place - 1 for place in places if place], minlength=len(SCRIPTS))
    enough = min(len(places) / 5, counts.max())
    return next(name for name, count in zip(SCRIPTS, counts, strict=True) if count >= enough)


def readability(texts: Sequence[str], table: TokenTable, tokenizer: TextTokenizer) -> dict[str, dict[str, int]]:
    """{script: {"texts", "tokens", "unreadable_tokens"}} of the texts, the most frequent script first.

    table: the texts' tokens, as the tower gets them.
    """
    distinct, inverse = np.unique(table.ids, return_inverse=True)
    lost = np.array([tokenizer.unreadable([number]) for number in distinct.tolist()], dtype=np.int64)[inverse]
    lost_of_text = np.diff(np.concatenate([[0], lost.cumsum()])[table.offsets])
    found: dict[str, dict[str, int]] = {}
    for text, tokens, of_text in zip(texts, np.diff(table.offsets).tolist(), lost_of_text.tolist(), strict=True):
        counts = found.setdefault(script_of(text), {"texts": 0, "tokens": 0, "unreadable_tokens": 0})
        counts["texts"] += 1
        counts["tokens"] += tokens
        counts["unreadable_tokens"] += of_text
    return dict(sorted(found.items(), key=lambda item: -item[1]["texts"]))


def readability_lines(counts: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What the log says of all splits together: nothing where the tower reads nearly all of it.

    counts: a dict for each split, in which `queries_read` and, where it has captions, `captions_read` are what
    `readability` gives.
    """
    counts, much = list(counts), False
    for kind in ("queries", "captions"):
        sums: dict[str, np.ndarray] = {}  # texts, tokens and unreadable ones by script
        for of_split in counts:
            for script, values in of_split.get(f"{kind}_read", {}).items():
                sums[script] = sums.get(script, np.zeros(3, np.int64)) + list(values.values())
        shares = {script: lost / max(tokens, 1) for script, (_, tokens, lost) in sums.items()}
        if not any(share >= FEW for share in shares.values()):
            continue
        shown = ", ".join(f"{100 * share:.1f} % in {sums[script][0]} {script} ones" for script, share in shares.items())
        yield f"tokens of the {kind} that are no words to the text tower (unknown, or bytes of a character): {shown}"
        _, tokens, lost = np.sum(list(sums.values()), axis=0)
        much |= lost >= MUCH * tokens
    if much:
        yield "  it hardly reads such texts; docs/TOWERS.md names towers that do (--pretrained_clip_name hf:…)"
