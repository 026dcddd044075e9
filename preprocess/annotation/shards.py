"""Shards of a folder's images, for several machines: which image is in which, and the file that each one writes."""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

NAME = re.compile(r".*\.(\d+)-of-(\d+)(?:\.[^.]*)?")


class Shard(NamedTuple):
    """The `number`-th of `count`, from 1 on."""

    number: int
    count: int

    def __str__(self):
        return f"{self.number}/{self.count}"

    def has(self, sha256):
        """Whether an image is in it, by its content alone: on every machine, and whatever other images there are."""
        return int(sha256, 16) % self.count == self.number - 1

    def file(self, out):
        """annotations.jsonl -> annotations.2-of-8.jsonl"""
        out = Path(out)
        return out.with_name(f"{out.stem}.{self.number}-of-{self.count}{out.suffix}")


def shard(text):
    """ "2/8" -> Shard, for argparse."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 1 to N, such as 2/8, not {text!r}")
    return Shard(int(match[1]), int(match[2]))


def shard_of(path):
    """The Shard whose file has this name, or None."""
    match = NAME.fullmatch(Path(path).name)
    return Shard(int(match[1]), int(match[2])) if match else None
