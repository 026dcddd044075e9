"""Which source of towers a `--pretrained_clip_name` is of. Nothing heavy is imported here."""

import re
from pathlib import PureWindowsPath

# The sources beside openai.py, each a file of this folder: the names that it reads, which begin with its own
SOURCES = {
    "hf": "hf:NAME_OR_FOLDER",
    "open_clip": "open_clip:ARCH/TAG, open_clip:ARCH@FILE",
    "pair": "pair:IMAGE+TEXT",
}
SMALL = "small"  # a pair whose weights come from a package index


def source_of(name: str) -> str:
    """One of SOURCES or openai: which file beside this one knows the name."""
    if name == SMALL:
        return "pair"
    source, colon, _ = name.partition(":")
    return source if colon and source in SOURCES else "openai"


def without_folders(name: str) -> str:
    """A `--pretrained_clip_name` without the folders on this machine that it names: each by its last part alone.

    What may be a name on the hub, OWNER/NAME, stays.
    """
    source = source_of(name)
    if source == "openai":
        return short(name)
    prefix, colon, rest = name.partition(":")
    towers = rest.split("+", 1) if source == "pair" else [rest]
    named = ("@".join(map(short, tower.split("@", 1))) for tower in towers)
    return prefix + colon + "+".join(named)


def short(name: str) -> str:
    """A name on the hub as it is; a path by its last part."""
    is_path = name.startswith((".", "~", "/")) or name.count("/") > 1 or re.search(r"^[A-Za-z]:|\\", name)
    return PureWindowsPath(name).name if is_path else name
