"""OpenAI's CLIPs with a vision transformer (Radford et al. 2021): what they are called and where they come from.

Names, files and checksums are those of openai/CLIP, clip/clip.py (MIT). Nothing heavy is imported here.
"""

import os
from pathlib import Path
from typing import NamedTuple

WEIGHTS_FOLDER = Path(__file__).parents[1]  # modules/


PLACE = "https://openaipublic.azureedge.net/clip/models"


class Published(NamedTuple):
    """A file that OpenAI published, by the SHA-256 that its address holds too."""

    file: str
    sha256: str

    @property
    def address(self) -> str:
        return f"{PLACE}/{self.sha256}/{self.file}"


PUBLISHED = {
    "ViT-B/32": Published("ViT-B-32.pt", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
    "ViT-B/16": Published("ViT-B-16.pt", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    "ViT-L/14": Published("ViT-L-14.pt", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
    "ViT-L/14@336px": Published(
        "ViT-L-14-336px.pt", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"
    ),
}


def path_of(name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """The weights file of a `--pretrained_clip_name`: a published one in `folder` (modules/), else the name."""
    return Path(folder or WEIGHTS_FOLDER) / PUBLISHED[name].file if name in PUBLISHED else Path(name)
