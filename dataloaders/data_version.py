"""Which data a run was made from: checksums of the CSVs and the images' sizes, so that a change is noticed."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from dataloaders.meme_records import Split
from util import sha256_of


def data_version(
    csv_paths: Mapping[str, str | os.PathLike[str]], splits: Mapping[str, Split], features_path: str | os.PathLike[str]
) -> dict[str, dict[str, str | None]]:
    """{split: {"csv": SHA-256 of the file, "images": SHA-256 of the names and sizes of its images}}.

    csv_paths: {split: path}; splits: {split: Split} as read from them. The images' contents are not read.
    "images" is None where there is no folder of images.
    """
    folder = Path(features_path)
    return {
        name: {
            "csv": sha256_of(csv_paths[name]),
            "images": _images_version(split, folder) if folder.is_dir() else None,
        }
        for name, split in splits.items()
    }


def _images_version(split: Split, folder: Path) -> str:
    digest = hashlib.sha256()
    for name in sorted({meme.image for meme in split.memes}):
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        digest.update(f"{name}\0{size}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
