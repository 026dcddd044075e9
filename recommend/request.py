"""What is asked, and what is answered."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import overload

from dataloaders.cells import is_blank
from util import InputError

MAX_TEXT = 10_000  # characters
MAX_PARTS = 16  # further texts
MAX_TOP = 1000
MAX_WEIGHT = 100.0

Weighted = tuple[str, float]


@dataclasses.dataclass(frozen=True)
class Request:
    """A search. At least one of `text`, `like`, `plus`, `minus` and `emotion` is needed.

    text: a sentence. like: memes like this one, which is one of the index by its id (str), a file (Path), or an image's
    bytes; a meme of the index does not come itself, whichever way it is given. plus, minus: further sentences with
    weights above 0, which are added and taken away. emotion: memes whose persons show it come first. seen: ids of memes
    that are not to come again. min_score: memes below it are left out. duplicates: show memes that are nearly the same
    as one before.

    Parts join like this: the first of text, like, plus, minus and emotion that is given counts as it is. Of each
    further one the deviation from its mean over the gallery, brought to the first one's spread, is added, times its
    weight: with a weight of 1 it counts as much. So a score of several parts may exceed 1, and compares memes of one
    answer.
    """

    text: str = ""
    like: str | Path | bytes | None = None
    plus: Sequence[Weighted] = ()
    minus: Sequence[Weighted] = ()
    emotion: str | None = None
    seen: Collection[str] = ()
    top: int = 10
    min_score: float | None = None
    duplicates: bool = False

    def check(self) -> None:
        """InputError where it cannot be answered by any index."""
        texts = [*self.plus, *self.minus]
        if is_blank(self.text) and self.like is None and not texts and self.emotion is None:
            raise InputError("there is nothing to search for: give a sentence, a picture or an emotion")
        if len(texts) > MAX_PARTS:
            raise InputError(f"{len(texts)} further sentences: at most {MAX_PARTS} are taken")
        for text, weight in texts:
            if is_blank(text):
                raise InputError("a further sentence is empty")
            if not 0 < weight <= MAX_WEIGHT:
                raise InputError(f"the weight {weight} of {text[:50]!r}: above 0, at most {MAX_WEIGHT:g}")
        for text in (self.text, *(text for text, _ in texts)):
            if len(text) > MAX_TEXT:
                raise InputError(f"a sentence of {len(text):,} characters: at most {MAX_TEXT:,} are taken")
        if not 1 <= self.top <= MAX_TOP:
            raise InputError(f"top is {self.top}: 1 to {MAX_TOP:,}")
        if self.min_score is not None and not -100 <= self.min_score <= 100:
            raise InputError(f"min_score is {self.min_score}: a number from -100 to 100")


@dataclasses.dataclass(frozen=True)
class Found:
    """A meme that was found.

    score: what the order is by: of one part its similarity, of several their sum (see Request). It has no meaning of
    its own, hence `below`: the share of the gallery that scores lower. qi, qc: the two similarities of the request's
    text (or of its picture, where it has no text), None where the model or the meme has no such part; alpha: the weight
    of qi. duplicates: ids of memes that would come later, are nearly the same, and are not shown.
    """

    rank: int
    id: str
    path: Path
    score: float
    below: float
    qi: float | None
    qc: float | None
    alpha: float | None
    emotions: tuple[str, ...]
    captions: tuple[str, ...]
    text: str
    duplicates: tuple[str, ...] = ()

    @property
    def caption(self) -> str:
        """The first caption, "" where there is none."""
        return self.captions[0] if self.captions else ""


@dataclasses.dataclass(frozen=True)
class Answer(Sequence[Found]):
    """What was found, best first. words: the weight in QI of each word of the text, empty where the model has none.

    gallery: how many memes were compared. notes: sentences to tell who asks, such as of words that were cut off.
    """

    memes: tuple[Found, ...]
    words: tuple[tuple[str, float], ...] = ()
    gallery: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.memes)

    @overload
    def __getitem__(self, place: int) -> Found: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Found, ...]: ...
    def __getitem__(self, place: int | slice) -> Found | tuple[Found, ...]:
        return self.memes[place]

    def __iter__(self) -> Iterator[Found]:
        return iter(self.memes)
