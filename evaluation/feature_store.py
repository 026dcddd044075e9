"""The memes' features of a whole gallery, computed once and kept where they fit: in memory, or on disk."""

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from util import not_written

TEMPORARY_PREFIX = ".features-"


def kind_of(name: str, kinds: Iterable[str]) -> str | None:
    """Which of the kinds of rows a feature consists of, by how its name begins; None where it is one row per meme."""
    return next((kind for kind in kinds if name.startswith(kind)), None)


class FeatureStore:
    """Append batches of features in the gallery's order, `finish`, then read memes by slice.

    A feature is (b, d), or (b, N, d) and (b, N) of N rows of a kind, visual tokens or captions, where N differs between
    batches: rows are stored without the padding of their batch. Above `limit_gb` the features go, in the precision
    `on_disk`, to temporary files in a folder inside `parent`, which are mapped into memory and vanish with this object.
    """

    lengths: dict[str, np.ndarray]  # by kind (M,): the rows of each meme
    offsets: dict[str, np.ndarray]  # (M + 1,): meme m's rows are [m] .. [m + 1]
    arrays: dict[str, np.ndarray]

    def __init__(
        self, limit_gb: float, parent: str | os.PathLike[str] | None = None, on_disk: type[np.floating] = np.float16
    ) -> None:
        self.limit = limit_gb * 2**30
        self.parent = parent
        self.on_disk = on_disk
        self.parts: dict[str, list[np.ndarray]] = {}
        self._lengths: dict[str, list[int]] = {}
        self.bytes = 0
        # where the files are, once there are any
        self.folder: tempfile.TemporaryDirectory[str] | None = None

    def append(self, features: Mapping[str, torch.Tensor], valid: Mapping[str, torch.Tensor]) -> None:
        """Add b memes; valid: by kind (b,), how many of a meme's N rows are real (their weights' other entries are 0).

        Each meme has a row of each kind at least.
        """
        keep = {}
        for kind, rows in valid.items():
            self._lengths.setdefault(kind, []).extend(rows.tolist())
            keep[kind] = torch.arange(int(rows.max()), device=rows.device) < rows[:, None]
        for name, tensor in features.items():
            if (own := kind_of(name, valid)) is not None:
                tensor = tensor[:, : keep[own].shape[1]][keep[own]]
            part = tensor.cpu().numpy()
            self.bytes += part.nbytes
            self.parts.setdefault(name, []).append(part)
        if self.folder is not None or self.bytes > self.limit:
            self._spill()

    def finish(self) -> None:
        self.set_lengths({kind: np.array(rows) for kind, rows in self._lengths.items()})
        if self.folder is None:
            self.arrays = {name: np.concatenate(self.parts.pop(name)) for name in list(self.parts)}
        else:
            self.arrays = {
                name: np.memmap(self._file(name), self.on_disk, "r").reshape(-1, *self.widths[name])
                for name in self.parts
            }
        del self.parts

    def set_lengths(self, lengths: dict[str, np.ndarray]) -> None:
        self.lengths = lengths
        self.offsets = {kind: np.concatenate([[0], rows.cumsum(dtype=np.int64)]) for kind, rows in lengths.items()}

    def __len__(self) -> int:
        return len(next(iter(self.lengths.values())))

    def read(
        self,
        memes: np.ndarray,
        device: torch.device,
        dtype: torch.dtype,
        names: Iterable[str] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Features (all, or those of `names`) of the memes with the given indices.

        They are padded to the most rows of their kind among these memes.
        """
        places = {kind: self._place(kind, memes) for kind in self.lengths}
        features = {}
        for name in names or self.arrays:
            kind = kind_of(name, places)
            place, valid = (memes, None) if kind is None else places[kind]
            tensor = torch.from_numpy(np.ascontiguousarray(self.arrays[name][place])).to(device, dtype)
            if valid is not None and name.endswith("_weight"):
                tensor = tensor * torch.from_numpy(valid).to(device)
            features[name] = tensor
        return features

    def _place(self, kind: str, memes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(where the rows of some memes are, which of them are no padding): (b, N) each."""
        lengths, first = self.lengths[kind][memes], self.offsets[kind][memes][:, None]
        number = np.arange(lengths.max())
        valid = number < lengths[:, None]
        return np.where(valid, first + number, first), valid  # padding: a copy of the meme's first row

    def groups(self, memes: np.ndarray) -> list[np.ndarray]:
        """The memes split by whether they have one token or more: stills need not be padded to animations."""
        single = self.lengths["token"][memes] == 1
        return [group for group in (memes[single], memes[~single]) if len(group)]

    def most_rows(self, memes: np.ndarray) -> int:
        """The most rows of a kind that one of these memes has."""
        return max(int(lengths[memes].max()) for lengths in self.lengths.values())

    def _file(self, name: str) -> Path:
        assert self.folder is not None
        return Path(self.folder.name) / name

    def _spill(self) -> None:
        if self.folder is None:
            if self.parent is not None:
                Path(self.parent).mkdir(parents=True, exist_ok=True)
            self.folder = tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=self.parent)
            self.widths = {name: parts[0].shape[1:] for name, parts in self.parts.items()}
        for name, parts in self.parts.items():
            try:
                with open(self._file(name), "ab") as file:
                    for part in parts:
                        file.write(part.astype(self.on_disk).tobytes())
            except OSError as error:
                raise not_written(self._file(name), error) from error
            parts.clear()
