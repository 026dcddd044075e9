"""The memes' features of a whole gallery, computed once and kept where they fit: in memory, or on disk."""

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from util import not_written

TEMPORARY_PREFIX = ".features-"


class FeatureStore:
    """Append batches of features in the gallery's order, `finish`, then read memes by slice.

    A feature is (b, d), or (b, V, d) and (b, V) with V differing between batches: rows are stored without the
    padding of their batch. Above `limit_gb` the features go, in the precision `on_disk`, to temporary files in a folder
    inside `parent`, which are mapped into memory and vanish with this object.
    """

    lengths: np.ndarray  # (M,) tokens of each meme
    offsets: np.ndarray  # (M + 1,): meme m's tokens are the rows [m] .. [m + 1]
    arrays: dict[str, np.ndarray]

    def __init__(
        self, limit_gb: float, parent: str | os.PathLike[str] | None = None, on_disk: type[np.floating] = np.float16
    ) -> None:
        self.limit = limit_gb * 2**30
        self.parent = parent
        self.on_disk = on_disk
        self.parts: dict[str, list[np.ndarray]] = {}
        self._lengths: list[int] = []
        self.bytes = 0
        # where the files are, once there are any
        self.folder: tempfile.TemporaryDirectory[str] | None = None

    def append(self, features: Mapping[str, torch.Tensor], valid: torch.Tensor) -> None:
        """Add b memes; valid (b,): how many of a meme's V tokens are real (its weights' other entries are 0)."""
        self._lengths += valid.tolist()
        keep = torch.arange(int(valid.max()), device=valid.device) < valid[:, None]
        for name, tensor in features.items():
            if self._is_per_token(name):
                tensor = tensor[:, : keep.shape[1]][keep]
            part = tensor.cpu().numpy()
            self.bytes += part.nbytes
            self.parts.setdefault(name, []).append(part)
        if self.folder is not None or self.bytes > self.limit:
            self._spill()

    def finish(self) -> None:
        self.lengths = np.array(self._lengths)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        if self.folder is None:
            self.arrays = {name: np.concatenate(self.parts.pop(name)) for name in list(self.parts)}
        else:
            self.arrays = {
                name: np.memmap(self._file(name), self.on_disk, "r").reshape(-1, *self.widths[name])
                for name in self.parts
            }
        del self.parts

    def __len__(self) -> int:
        return len(self._lengths)

    def read(
        self,
        memes: np.ndarray,
        device: torch.device,
        dtype: torch.dtype,
        names: Iterable[str] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Features (all, or those of `names`) of the memes with the given indices.

        They are padded to the most tokens among these memes.
        """
        lengths = self.lengths[memes]
        place = self.offsets[memes][:, None] + np.arange(lengths.max())
        valid = np.arange(lengths.max()) < lengths[:, None]
        place = np.where(valid, place, self.offsets[memes][:, None])  # padding: a copy of the meme's first token
        features = {}
        for name in names or self.arrays:
            array = self.arrays[name]
            rows = array[place] if self._is_per_token(name) else array[memes]
            tensor = torch.from_numpy(np.ascontiguousarray(rows)).to(device, dtype)
            if name.endswith("_weight"):
                tensor = tensor * torch.from_numpy(valid).to(device)
            features[name] = tensor
        return features

    def groups(self, memes: np.ndarray) -> list[np.ndarray]:
        """The memes split by whether they have one token or more: stills need not be padded to animations."""
        single = self.lengths[memes] == 1
        return [group for group in (memes[single], memes[~single]) if len(group)]

    @staticmethod
    def _is_per_token(name: str) -> bool:
        return name.startswith("token")

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
