"""Memes that are nearly the same as one before: by `preprocess.statistics`' measure, perceptual hash and text."""

from __future__ import annotations

from collections.abc import Sequence

from dataloaders.meme_records import Meme
from preprocess.comparing.near_duplicates import longest_quotation, near_duplicate_pairs
from recommend.store import Store
from util import InputError


def collapsed(store: Store, rows: Sequence[int], seen: Sequence[int]) -> tuple[list[int], dict[int, list[int]]]:
    """Rows, best first -> (those that are nearly the same as no better one nor a seen one, {row: what it hides})."""
    left_out = set(seen)
    both = [*seen, *(row for row in rows if row not in left_out)]
    phashes = [int(store.rows[row]["phash"]) for row in both]
    texts = [
        _compared(store.meme(row), phash, store.state["has_text"]) for row, phash in zip(both, phashes, strict=True)
    ]
    try:
        pairs = near_duplicate_pairs(phashes, texts)
    except InputError as error:
        raise InputError(f"{error} (or show all, also what is nearly the same: --duplicates)") from None
    like: dict[int, list[int]] = {}
    for one, other in pairs.tolist():
        like.setdefault(other, []).append(one)
    stays = set(range(len(seen)))
    shown, hidden = [], dict[int, list[int]]()
    for place in range(len(seen), len(both)):
        better = next((each for each in sorted(like.get(place, ())) if each in stays), None)
        if better is None:
            stays.add(place)
            shown.append(both[place])
        elif better >= len(seen):
            hidden.setdefault(both[better], []).append(both[place])
    return shown, hidden


def _compared(meme: Meme, phash: int, has_text: bool) -> str:
    """The text on a meme or, where none of the gallery has one, what its captions quote.

    Of a meme of which no text at all is known stands a text for its hash: it is the same as those with the same hash
    alone, for else all memes of one template were.
    """
    if not meme.text.strip() and not meme.captions:
        return "".join(chr(0x4E00 + (phash >> shift & 0xFF)) * 2 for shift in range(0, 64, 8))
    return meme.text if has_text else longest_quotation(meme.captions) or "\n".join(meme.captions)
