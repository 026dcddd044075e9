"""Memes for a sentence: an index of a folder of memes, searched by a trained model (docs/USE.md).

from recommend import Recommender
recommender = Recommender.open("index")
for meme in recommender.search("when the code works at the first try", top=5):
    print(meme.path, meme.score)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import util  # noqa: F401  says what to run where a package is missing; first of all

if TYPE_CHECKING:
    from recommend.recommender import Embeddings as Embeddings
    from recommend.recommender import Recommender as Recommender
    from recommend.request import Answer as Answer
    from recommend.request import Found as Found
    from recommend.request import Request as Request

PUBLIC = {
    "Recommender": "recommend.recommender",
    "Embeddings": "recommend.recommender",
    "Request": "recommend.request",
    "Answer": "recommend.request",
    "Found": "recommend.request",
}


def __getattr__(name: str) -> Any:
    """The public classes, imported when they are asked for: `python -m recommend --help` needs none of them."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'recommend' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(PUBLIC[name]), name)
