"""The public class: an index opened with its model, and searched."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.cells import BadCell, is_blank
from dataloaders.image_file import BadImage, ImageError, read_file
from dataloaders.meme_records import Meme
from engine import published_model
from recommend import scoring
from recommend.gallery import Gallery, path_within
from recommend.indexing import prepared, update
from recommend.model import Features, ModelInUse, to_rows
from recommend.near_duplicates import Collapsing
from recommend.request import Answer, Found, Request
from recommend.store import Store
from util import InputError

LOOKED_AT = 50  # further memes at first, in case some are nearly the same
SCORES_AT_ONCE = 2**24  # of texts and memes together: 64 MiB


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Arrays of features, a row for each of `ids`. `tokens` (N, V, d), `words` (N, L, d), their weights are padded."""

    ids: tuple[str, ...]
    arrays: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Part:
    """One of the things that a request asks for: its scores, and how it can be shown."""

    scores: np.ndarray  # (rows,)
    weight: float
    queries: Features | None = None  # of the text
    picture: Features | None = None
    alpha: float | None = None
    words: tuple[tuple[str, float], ...] = ()
    qi: np.ndarray | None = None  # (rows,), where some rows alone do not give it


class Recommender:
    """An index and its model. Threads may search at the same time.

    What is found is the index as it was when it was opened; `reopened` sees what an indexing call has changed since.
    """

    def __init__(self, store: Store, model: ModelInUse) -> None:
        self.store, self.model = store, model
        self.images = Path(store.state["images"])
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def open(
        cls,
        index: str | os.PathLike[str],
        model: str | os.PathLike[str] | None = None,
        device: str | None = None,
    ) -> Recommender:
        """Open the index in a folder. model: its model, where it has been moved. device: cpu, cuda or mps.

        InputError where there is no index, or the model is missing or another one.
        """
        store = Store.open(index)
        name = os.fspath(model if model is not None else store.state["model"]["path"])
        if not name.startswith(published_model.HUB) and not Path(name).exists():
            raise InputError(
                f"{name}: found no such checkpoint, which {index} was made with (--model says where it is)"
            )
        opened = ModelInUse(name, device)
        _check_model(store, opened)
        return cls(store, opened)

    def reopened(self) -> Recommender:
        """The index as it is now, with the same model. InputError where it is of another one, or is none any more."""
        store = Store.open(self.store.folder)
        _check_model(store, self.model)
        recommender = type(self)(store, self.model)
        recommender._temporary = self._temporary
        return recommender

    @classmethod
    def from_images(
        cls,
        model: str | os.PathLike[str],
        images: str | os.PathLike[str] | None = None,
        annotations: str | os.PathLike[str] | None = None,
        data_path: str | os.PathLike[str] | None = None,
        index: str | os.PathLike[str] | None = None,
        device: str | None = None,
    ) -> Recommender:
        """Index a folder of images, or a community's (`data_path`), and open that: as `python -m recommend index`.

        index: the folder for it, which is brought up to date; None: one that vanishes with this object.
        """
        temporary = None if index is not None else tempfile.TemporaryDirectory(prefix="recommend-")
        folder = Path(index if index is not None else temporary.name if temporary else "")
        opened = ModelInUse(model, device)
        update(folder, opened, Gallery(images, annotations, data_path), progress=False)
        recommender = cls(Store.open(folder), opened)
        recommender._temporary = temporary
        return recommender

    def __len__(self) -> int:
        """Memes in the gallery."""
        return len(self.store)

    @property
    def emotions(self) -> list[str]:
        """The emotion words that `Request.emotion` takes."""
        vectors = self.model.model.emotion_vectors
        return sorted(vectors.words) if vectors is not None else []

    def search(self, request: Request | str, **options: Any) -> Answer:
        """Search by a Request, or by a sentence and, by name, what else a Request has.

        InputError where the request cannot be answered.
        """
        return self.search_many([self._as_request(request, options)])[0]

    def search_many(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers to several requests; their texts are compared with the memes together, which is faster."""
        for request in requests:
            request.check()
        answers = []
        for answer in self.search_each(requests):
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return answers

    def search_each(self, requests: Sequence[Request]) -> Iterator[Answer | Exception]:
        """As `search_many`; yields each answer as soon as it is there, or the error of a request that has none."""
        waiting: list[Request] = []
        texts, most = 0, max(1, SCORES_AT_ONCE // max(1, len(self.store.rows)))
        for request in requests:
            own = len(_texts_of(request))
            if waiting and texts + own > most:
                yield from self._search_group(waiting)
                waiting, texts = [], 0
            waiting.append(request)
            texts += own
        yield from self._search_group(waiting)

    @staticmethod
    def _as_request(request: Request | str, options: dict[str, Any]) -> Request:
        if isinstance(request, Request):
            return dataclasses.replace(request, **options)
        return Request(text=request, **options)

    def _search_group(self, requests: Sequence[Request]) -> Iterator[Answer | Exception]:
        texts = [text for request in requests for text, _ in _texts_of(request)]
        parts: list[_Part] = []
        cut: list[int] = []
        if texts:
            queries, table = self.model.encode_texts(texts)
            scores = scoring.text_scores(self.model, self.store, queries)
            alphas, words = self.model.alpha(queries), self.model.word_weights(queries, table)
            cut = table.cut.tolist()
            for number in range(len(texts)):
                own = {name: tensor[number : number + 1] for name, tensor in queries.items()}
                qi = scores.qi[number] if scores.qi is not None else None
                parts.append(_Part(scores.fused[number], 1.0, own, None, alphas[number], tuple(words[number]), qi))
        done = 0
        for request in requests:
            weights = [weight for _, weight in _texts_of(request)]
            some = slice(done, done + len(weights))
            done += len(weights)
            of_texts = [dataclasses.replace(p, weight=w) for p, w in zip(parts[some], weights, strict=True)]
            notes = [
                f"the end of a text is not read, {lost} of its tokens: the model reads {self.model.args.max_words}: "
                f"{text[:60]}"
                for text, lost in zip(texts[some], cut[some], strict=True)
                if lost
            ]
            try:
                request.check()
                yield self._answer(request, *self._parts(request, of_texts), notes)
            except Exception as error:  # the others have their answers all the same
                yield error

    def _parts(self, request: Request, of_texts: list[_Part]) -> tuple[list[_Part], int | None]:
        """All parts of a request, in the order in which they count; the row of the meme that `like` is, if any."""
        first = 0 if is_blank(request.text) else 1
        parts, row = of_texts[:first], None
        if request.like is not None:
            picture, row = self._picture(request.like)
            scores = scoring.picture_scores(self.model, self.store, picture)[0]
            sentence = self.model.caption_of(picture)
            alpha = self.model.alpha({"sentence": sentence})[0] if sentence is not None else None
            parts.append(_Part(scores, 1.0, picture=picture, alpha=alpha))
        parts += of_texts[first:]
        if request.emotion is not None:
            affinity = self.model.emotion_affinity(request.emotion)
            parts.append(_Part(scoring.emotion_scores(self.store, affinity)[0], 1.0))
        return parts, row

    def _picture(self, like: str | Path | bytes) -> tuple[Features, int | None]:
        """(a picture's features, its row in the index): as the model sees it and None, where it is not there."""
        if isinstance(like, str):
            row: int | None = self._row_of(like)
        else:
            data = like if isinstance(like, bytes) else read_file(like)
            row = self.store.row_of_file(hashlib.sha256(data).digest())
        if row is not None:
            return scoring.read_rows(self.store, self.model.device, np.array([row])), row
        try:
            frames = prepared(data, self.model.settings).frames
        except BadImage as error:
            raise InputError(f"{'the picture' if isinstance(like, bytes) else like}: {error}") from error
        return self.model.encode_memes([Meme("", "", (), (), "")], [frames])[0], None

    def _row_of(self, image_id: str) -> int:
        row = self.store.row_of(image_id)
        if row is None:
            raise InputError(f"{image_id[:200]}: no meme of the index has this id")
        return row

    def _answer(self, request: Request, parts: list[_Part], like: int | None, notes: list[str]) -> Answer:
        """like: the row of the meme that the request's picture is, which does not come: who asks has it."""
        total = self._total(parts)
        if not np.isfinite(total[self.store.live]).all():
            raise InputError("the model gives scores that are no numbers: it cannot be searched with")
        seen = [row for image_id in dict.fromkeys(request.seen) if (row := self.store.row_of(image_id)) is not None]
        if unknown := len(set(request.seen)) - len(seen):
            notes.append(f"{unknown:,} of the seen memes {'is' if unknown == 1 else 'are'} not in the index")
        if like is not None:
            seen.append(like)
        chosen, hidden = self._choose(request, total, seen)
        shown = self._shown(parts[0], np.array(chosen, np.int64))
        below = self._share_below(total, total[chosen])
        memes = []
        for rank, row in enumerate(chosen, start=1):
            meme = self.store.meme(row)
            memes.append(
                Found(
                    rank=rank,
                    id=meme.image_id,
                    path=self.images / meme.image,
                    score=float(total[row]),
                    below=float(below[rank - 1]),
                    qi=shown["qi"][rank - 1],
                    qc=shown["qc"][rank - 1],
                    alpha=parts[0].alpha,
                    emotions=meme.emotions,
                    captions=meme.captions,
                    text=meme.text,
                    duplicates=tuple(self.store.meme(other).image_id for other in hidden.get(row, ())),
                )
            )
        return Answer(tuple(memes), parts[0].words, len(self.store), tuple(notes))

    def _total(self, parts: list[_Part]) -> np.ndarray:
        """The scores (rows,) that the order is by, -inf where a row is not in the gallery."""
        live = self.store.live
        first = parts[0]
        total = -first.scores if first.weight < 0 else first.scores.copy()
        spread = float(first.scores[live].std()) if len(parts) > 1 else 0.0
        for part in parts[1:]:
            own = part.scores[live]
            mean, deviation = float(own.mean()), float(own.std())
            if deviation > 0:
                total += (part.scores - np.float32(mean)) * np.float32(part.weight * (spread or 1.0) / deviation)
        if not live.all():
            total[~live] = -np.inf
        return total

    def _choose(self, request: Request, total: np.ndarray, seen: list[int]) -> tuple[list[int], dict[int, list[int]]]:
        """(the rows to show, {row: those hidden under it})."""
        left_out, collapsing = set(seen), Collapsing(self.store, seen)
        done, looked_at = 0, request.top + len(seen) + (0 if request.duplicates else LOOKED_AT)
        while True:
            rows = best_rows(total, min(looked_at, len(self.store)))
            passing = [row for row in rows if request.min_score is None or total[row] >= request.min_score]
            if request.duplicates:
                shown = [row for row in passing if row not in left_out]
            else:
                collapsing.add(passing[done:])
                shown, done = collapsing.shown, len(passing)
            if len(shown) >= request.top or len(passing) < len(rows) or len(rows) == len(self.store):
                return shown[: request.top], collapsing.hidden
            looked_at *= 4

    def _shown(self, part: _Part, rows: np.ndarray) -> dict[str, list[float | None]]:
        """{"qi", "qc": of each of the rows} of the part that is shown."""
        nothing: list[float | None] = [None] * len(rows)
        scores: Features = {}
        if len(rows) and (part.queries is not None or part.picture is not None):
            features = scoring.read_rows(self.store, self.model.device, rows)
            if part.queries is not None:
                scores = self.model.scores(part.queries, features, ("qc",) if part.qi is not None else ("qi", "qc"))
            elif part.picture is not None:
                scores = self.model.picture_scores(part.picture, features)
        found = {name: scores[name][0].tolist() if name in scores else nothing for name in ("qi", "qc")}
        return found if part.qi is None else found | {"qi": part.qi[rows].tolist()}

    def _share_below(self, total: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The share of the gallery with a lower score than each of these."""
        dead = len(total) - len(self.store)
        ordered = np.sort(total) if len(scores) > 50 else None
        counts = [
            int(np.searchsorted(ordered, score)) if ordered is not None else int(np.count_nonzero(total < score))
            for score in scores
        ]
        return (np.array(counts, np.int64) - dead) / max(1, len(self.store))

    def image_path(self, image_id: str) -> Path:
        """Where a meme's image is. InputError for an id that is not in the index, or a path that leaves the folder."""
        meme = self.store.meme(self._row_of(image_id))
        try:
            return path_within(self.images, meme.image)
        except BadCell as error:
            raise InputError(f"{meme.image}: {error}") from error

    def thumbnail(self, image_id: str) -> bytes:
        """A meme as a small WebP. InputError for an id that is not in the index."""
        return self.store.thumbnail(self._row_of(image_id))

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Sentences -> `sentence` (N, d) of length 1 and, with a token interaction, `words`, `word_weight`."""
        if not texts or any(is_blank(text) for text in texts):
            raise InputError("there is no text to encode, or one of them is empty")
        return _embeddings(texts, self.model.encode_texts(texts)[0])

    def encode_images(self, images: Sequence[str | os.PathLike[str]]) -> Embeddings:
        """Image files, without captions and emotions -> what the model compares of a meme; the ids are the paths.

        `pooled` (N, d) with `dp`, else `tokens` (N, V, d) and `token_weight` (N, V); `caption` (N, d), which is 0
        here, with `--text_pool_type max` (N, 1, d). InputError for an image that cannot be read.
        """
        if not images:
            raise InputError("there is no image to encode")
        parts: list[dict[str, np.ndarray]] = []
        for path in images:
            try:
                frames = prepared(read_file(path), self.model.settings).frames
            except BadImage as error:
                raise ImageError(f"{path}: {error}") from error
            parts += to_rows(*self.model.encode_memes([Meme("", "", (), (), "")], [frames]))
        longest = max((len(part["tokens"]) for part in parts if "tokens" in part), default=0)
        arrays = {}
        for name in parts[0]:
            rows = [part[name] for part in parts]
            if name.startswith("token"):
                rows = [np.pad(row, [(0, longest - len(row)), *[(0, 0)] * (row.ndim - 1)]) for row in rows]
            arrays[name] = np.stack(rows)
        return Embeddings(tuple(os.fspath(path) for path in images), arrays)


def _check_model(store: Store, model: ModelInUse) -> None:
    """InputError where an index was made with another model."""
    made_with = store.state["model"]
    if model.sha256 != made_with["sha256"]:
        raise InputError(
            f"{store.folder}: was made with the model {made_with['path']} (SHA-256 {made_with['sha256'][:12]}...), not "
            f"with {model.name} ({model.sha256[:12]}...)"
        )


def _texts_of(request: Request) -> list[tuple[str, float]]:
    """A request's texts and their weights, the sentence first."""
    own = [] if is_blank(request.text) else [(request.text, 1.0)]
    return [*own, *request.plus, *((text, -weight) for text, weight in request.minus)]


def _embeddings(ids: Sequence[str], features: Features) -> Embeddings:
    return Embeddings(tuple(ids), {name: tensor.float().cpu().numpy() for name, tensor in features.items()})


def best_rows(scores: np.ndarray, count: int) -> list[int]:
    """The rows with the highest scores, best first; of equal ones the earlier. At most `count`."""
    if count < len(scores):
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        rows = np.flatnonzero(scores >= least)
    else:
        rows = np.arange(len(scores))
    return rows[np.argsort(-scores[rows], kind="stable")][:count].tolist()
