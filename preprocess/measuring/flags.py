"""The flags by which a community is read and measured: those of preprocess.statistics and preprocess.describe."""

from pathlib import Path

from dataloaders.communities import SPLITS
from preprocess.building.shares import SPLIT_BY

ONE_COMMUNITY = ("features_path", *(f"{split}_csv" for split in SPLITS))
LIMITS = {"max_words": 2, "max_caption_words": 2, "hash_threshold": 0, "min_memes": 1, "workers": 1}  # the least


def add_measuring_flags(parser):
    """Add the flags to a util.Parser."""
    add = parser.add_argument
    for split in SPLITS:
        add(f"--{split}_csv", type=Path, metavar="FILE", help=f"instead of DIR/{split}.csv; for one community")
    add("--features_path", type=Path, metavar="DIR", help="the images, instead of DIR/images; for one community")
    add("--max_words", type=int, default=32, help="tokens of a query in training (default: %(default)s)")
    add("--max_caption_words", type=int, default=77, help="tokens of a caption in training (default: %(default)s)")
    add("--hash_threshold", type=int, metavar="BITS", help="near-duplicates' hashes differ in at most this many of 64")
    add("--min_memes", type=int, default=3, help="topics with fewer are small (default: %(default)s)")
    add("--split_by", choices=SPLIT_BY, default="record",
        help="how the splits were made: with topic, a topic or a query in two splits is leakage too; with template, a"
        " template")  # fmt: skip
    add("--workers", type=int, metavar="N", help="threads that read images (default: all cores)")


def check_limits(parser, args):
    """End the program (code 2) where a number is too small."""
    for name, least in LIMITS.items():
        if getattr(args, name) is not None and getattr(args, name) < least:
            parser.error(f"--{name}: found {getattr(args, name)}, expected {least} or more")
