"""An index's features and ids as one .npz file, for other programs."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator

import numpy as np

from evaluation.feature_store import kind_of
from recommend.store import Store
from util import replaced_atomically

AT_ONCE = 4096  # memes


def export(store: Store, path: str | os.PathLike[str]) -> list[str]:
    """Write a gallery's features as .npz: the names of its arrays.

    `ids` and `paths` (N,), `tokens_per_meme` (N,), and the features: `pooled` and `caption` (N, d), and of all memes'
    visual tokens, one after the other, `tokens` (T, d) and `token_weight` (T,). With `--text_pool_type max` also
    `captions_per_meme` (N,), and `caption` (C, d) of all captions, one after the other. Of the features a part at a
    time is in memory.
    """
    rows, features = np.flatnonzero(store.live), store.features
    memes = [store.meme(row) for row in rows.tolist()]
    arrays = {
        "ids": np.array([meme.image_id for meme in memes]),
        "paths": np.array([meme.image for meme in memes]),
        **{f"{kind}s_per_meme": lengths[rows].astype(np.int64) for kind, lengths in features.lengths.items()},
    }
    with replaced_atomically(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        for name, array in features.arrays.items():
            kind = kind_of(name, features.offsets)
            count = len(rows) if kind is None else int(features.lengths[kind][rows].sum())
            header = np.lib.format.header_data_from_array_1_0(array) | {"shape": (count, *array.shape[1:])}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_2_0(file, header)
                for part in _parts(array, rows, None if kind is None else features.offsets[kind]):
                    file.write(np.ascontiguousarray(part).tobytes())
    return [*arrays, *features.arrays]


def _parts(array: np.ndarray, rows: np.ndarray, offsets: np.ndarray | None) -> Iterator[np.ndarray]:
    """Yield an array's entries of the given rows, a part at a time. offsets: where a meme has several entries."""
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        if offsets is not None:
            some = np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in some])
        yield array[some]
