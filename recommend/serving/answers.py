"""What the API takes and gives, in terms of a Recommender: without a server, in threads."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.image_file import BadImage, ImageFile, kind_of
from recommend.recommender import Recommender
from recommend.request import Found, Request, Weighted
from util import InputError

MAX_UPLOAD = 20 * 2**20  # bytes of a picture that is searched by
MAX_PIXELS = 50_000_000  # of it
MAX_PAINTED = 2**28  # pixels of all its frames, or of all scans of a JPEG
MEDIA_TYPES = {name: f"image/{name.lower()}" for name in ("JPEG", "PNG", "GIF", "WebP", "BMP", "AVIF")}
LISTED = 24  # emotions, the most frequent ones


class NotThere(InputError):
    """An id that is not in the index, or an image that is not in its folder any more."""


def picture(recommender: Recommender, data: bytes) -> str | bytes:
    """What a Request takes as `like` for a stranger's picture: the id of the meme that it is, else the bytes.

    InputError where it is not one of the index and is too large, or no picture.
    """
    row = recommender.store.row_of_file(hashlib.sha256(data).digest())
    if row is not None:
        return recommender.store.meme(row).image_id
    check_picture(data)
    return data


def search_each(recommender: Recommender, requests: Sequence[Request]) -> Iterator[dict[str, Any] | Exception]:
    """Yield the answer to each request as JSON has it, or its error. `like`: the id of the meme that it asks with."""
    for request, answer in zip(requests, recommender.search_each(requests), strict=True):
        if isinstance(answer, Exception):
            yield answer
            continue
        yield {
            "like": request.like if isinstance(request.like, str) else None,
            "words": answer.words,
            "gallery": answer.gallery,
            "notes": answer.notes,
            "memes": [_as_json(meme, recommender.images) for meme in answer],
        }


def _as_json(meme: Found, images: Path) -> dict[str, Any]:
    known = dataclasses.asdict(meme)
    path = Path(known["path"])
    known["path"] = path.relative_to(images).as_posix() if path.is_relative_to(images) else path.name
    return known


def check_picture(data: bytes) -> None:
    """InputError where a picture is too large to be decoded for a stranger, or none that our reader knows."""
    try:
        image = ImageFile(data)
    except BadImage as error:
        raise InputError(f"the picture: {error}") from None
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise InputError(f"the picture has {pixels:,} pixels: at most {MAX_PIXELS:,} are taken")
    painted = pixels * max(image.frames, image.scans)
    if painted > MAX_PAINTED:
        raise InputError(f"the frames of the picture have {painted:,} pixels: at most {MAX_PAINTED:,} are taken")


def weighted(texts: Sequence[str], weights: Sequence[float], name: str) -> list[Weighted]:
    """Further texts with their weights, 1 where none is given."""
    if len(weights) > len(texts):
        raise InputError(f"{name}_weight is given {len(weights)} times, and {name} {len(texts)} times")
    return list(zip(texts, [*weights, *[1.0] * (len(texts) - len(weights))], strict=True))


def facts(recommender: Recommender) -> dict[str, Any]:
    """What the page and programs may want to know of the index."""
    model = recommender.model
    return {
        "memes": len(recommender),
        "emotions": recommender.emotions,
        "frequent_emotions": frequent_emotions(recommender),
        "reads_images": model.reads_images,
        "reads_captions": model.reads_captions,
    }


def frequent_emotions(recommender: Recommender) -> list[str]:
    """The emotions of the model that most persons of the gallery show."""
    if not recommender.emotions:
        return []
    store, names = recommender.store, {index: word for word, index in recommender.model.emotions.items()}
    counts = np.bincount(store.emotions[np.repeat(store.live, store.rows["persons"])])
    order = [index for index in np.argsort(-counts, kind="stable").tolist() if counts[index] and index in names]
    known = set(recommender.emotions)
    return [names[index] for index in order if names[index] in known][:LISTED]


def image_file(recommender: Recommender, image_id: str) -> tuple[Path, str]:
    """(where a meme's image is, its media type)."""
    _check_known(recommender, image_id)
    path = recommender.image_path(image_id)
    try:
        with open(path, "rb") as file:
            return path, MEDIA_TYPES[kind_of(file.read(64))[0]]
    except (OSError, BadImage):
        raise NotThere("the image is not in its folder any more: index it again") from None


def thumbnail(recommender: Recommender, image_id: str) -> bytes:
    """A meme as a small WebP."""
    _check_known(recommender, image_id)
    return recommender.thumbnail(image_id)


def _check_known(recommender: Recommender, image_id: str) -> None:
    if recommender.store.row_of(image_id) is None:
        raise NotThere(f"{image_id[:200]}: no meme of the index has this id")
