"""Memes that are nearly the same as one before: by `preprocess.statistics`' measure, perceptual hash and text."""

from __future__ import annotations

from collections.abc import Sequence

from dataloaders.meme_records import Meme
from preprocess.comparing.near_duplicates import longest_quotation, near_duplicate_pairs
from recommend.store import Store
from util import InputError

AT_ONCE = 256  # rows that are compared with each other and the better ones


class Collapsing:
    """Rows that come best first: `shown` are those that are nearly the same as no better one and no seen one.

    hidden: {row that is shown: those that are nearly the same}.
    """

    def __init__(self, store: Store, seen: Sequence[int]) -> None:
        self.store = store
        self.shown: list[int] = []
        self.hidden: dict[int, list[int]] = {}
        self._seen = set(seen)
        self._better = [self._facts(row) for row in seen]  # what a further row is compared with

    def add(self, rows: Sequence[int]) -> None:
        """The next rows. A seen one is passed over."""
        left = [row for row in rows if row not in self._seen]
        for start in range(0, len(left), AT_ONCE):
            self._add([self._facts(row) for row in left[start : start + AT_ONCE]])

    def _facts(self, row: int) -> tuple[int, int, str]:
        """(row, hash, the text that is compared)"""
        phash = int(self.store.rows[row]["phash"])
        return row, phash, _compared(self.store.meme(row), phash, bool(self.store.state.get("has_text")))

    def _add(self, some: list[tuple[int, int, str]]) -> None:
        first = len(self._better)
        both = [*self._better, *some]
        try:
            pairs = near_duplicate_pairs([phash for _, phash, _ in both], [text for *_, text in both])
        except InputError as error:
            raise InputError(f"{error} (or show all, also what is nearly the same: --duplicates)") from None
        like: dict[int, list[int]] = {}
        for one, other in pairs.tolist():
            like.setdefault(other, []).append(one)
        stays = set(range(first))
        for place in range(first, len(both)):
            row = both[place][0]
            better = next((each for each in sorted(like.get(place, ())) if each in stays), None)
            if better is None:
                stays.add(place)
                self.shown.append(row)
                self._better.append(both[place])
            elif both[better][0] not in self._seen:
                self.hidden.setdefault(both[better][0], []).append(row)


def _compared(meme: Meme, phash: int, has_text: bool) -> str:
    """The text on a meme or, where none of the gallery has one, what its captions quote.

    Of a meme of which no text at all is known stands a text for its hash: it is the same as those with the same hash
    alone, for else all memes of one template were.
    """
    if not meme.text.strip() and not meme.captions:
        return "".join(chr(0x4E00 + (phash >> shift & 0xFF)) * 2 for shift in range(0, 64, 8))
    return meme.text if has_text else longest_quotation(meme.captions) or "\n".join(meme.captions)
