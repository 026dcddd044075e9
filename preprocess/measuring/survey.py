"""One community -> its splits, images, measures and problems; its plots are drawn on the way."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import regex

from dataloaders.communities import COMMUNITIES, SPLITS, missing_data_message
from dataloaders.csv_rows import shown
from dataloaders.meme_records import read_splits
from modules.tokenizer import Tokenizer
from preprocess.comparing.image_facts import ImageFacts, image_facts
from preprocess.comparing.near_duplicates import DEFAULT_HASH_THRESHOLD
from preprocess.measuring.counts import CLIP_CONTEXT, TextLengths, measure, summary
from preprocess.measuring.number_tables import SHOWN
from preprocess.measuring.quality import (
    duplicate_pairs,
    leakage,
    near_identical_queries,
    small_topics,
    splits_by_meme,
)
from util import InputError

LEAKS = {
    "memes": "leakage, memes in two splits",
    "exact": "leakage, pairs of exact duplicates across splits",
    "near": "leakage, pairs of near-duplicates across splits",
    "topics": "leakage, topics in two splits",
    "queries": "leakage, queries in two splits",
    "templates": "leakage, templates in two splits, by their first memes",
}
DUPLICATES = {"exact": "pairs of exact duplicates", "near": "pairs of near-duplicates"}


class Source(NamedTuple):
    """Where a community lies: its CSVs by split, and the folder of its images."""

    csv_paths: dict
    images: Path


class Survey(NamedTuple):
    """What was found: JSON-ready `report`, {split: Measures} with "total" last, the duplicates, the memes' images."""

    report: dict
    measures: dict
    pairs: list
    facts: ImageFacts


def sources(args):
    """{name: Source} of all the communities. InputError before any work if something is not there."""
    found = {}
    for folder in args.communities:
        name = folder.resolve().name
        if name in found:
            raise InputError(f"{folder}: found a second folder called {name!r}, expected different names")
        given = {split: getattr(args, f"{split}_csv") for split in SPLITS}
        paths = {split: path or folder / f"{split}.csv" for split, path in given.items()}
        paths = {split: path for split, path in paths.items() if given[split] or path.is_file()}
        if not paths and name in COMMUNITIES:
            raise InputError(missing_data_message(COMMUNITIES[name], folder / "train.csv"))
        if not paths:
            raise InputError(f"{folder}: found no train.csv, val.csv or test.csv, expected the folder of a community")
        images = args.features_path or folder / "images"
        if not images.is_dir():
            raise InputError(f"{images}: no such folder of images (--features_path, default DIR/images)")
        found[name] = Source(paths, images)
    return found


def survey(name, source, args, cache):
    """Read and measure a community: its Survey. args: as `measuring.flags` has them. cache: as of `image_facts`."""
    splits, notes = read_splits(source.csv_paths, source.images, read_captions=False)
    memes = [meme for meme, _ in splits_by_meme(splits).values()]
    facts = image_facts(source.images, [meme.image for meme in memes], cache, args.workers)
    sizes = zip(facts.width.tolist(), facts.height.tolist(), facts.kind.tolist(), facts.frames.tolist(), strict=True)
    readable = {path: size for path, size in zip(facts.paths, sizes, strict=True) if size[2]}
    lengths = TextLengths(Tokenizer(), min(args.max_caption_words, CLIP_CONTEXT))
    measures = measure(splits, readable, lengths)
    threshold = DEFAULT_HASH_THRESHOLD if args.hash_threshold is None else args.hash_threshold
    pairs, duplicates = duplicate_pairs(splits, facts, threshold)
    leaks = leakage(splits, pairs, facts, threshold, args.split_by)
    summaries = {key: summary(part, args.max_words, args.max_caption_words) for key, part in measures.items()}
    report = {
        "title": COMMUNITIES[name].name if name in COMMUNITIES else name,
        "language": language(name, splits),
        "files": {split: str(path) for split, path in source.csv_paths.items()},
        "images": str(source.images),
        "notes": notes,
        "splits": {split: summaries[split] for split in splits},
        "total": summaries["total"],
        "duplicates": duplicates,
        "leakage": {kind: len(found) for kind, found in leaks.items()},
        "topics": {
            "min_memes": args.min_memes,
            "small": {key: small_topics(split, args.min_memes) for key, split in splits.items()},
            "near_identical_queries": {key: near_identical_queries(split) for key, split in splits.items()},
        },
        "unreadable": dict(sorted(facts.errors.items())),
        "problems": problems(name, leaks, pairs, sorted(facts.errors)),
    }
    return Survey(report, measures, pairs, facts)


def describe(name, source, args):
    """The Survey of a community, with its plots drawn into --out and named in the report."""
    from preprocess.measuring.duplicate_sheet import write_sheet
    from preprocess.measuring.plots import plot_all

    found = survey(name, source, args, args.out / f"image_facts_{name}.csv")
    found.report["plots"] = plot_all(args.out, name, found.measures, token_limits(args))
    if found.pairs:
        found.report["plots"]["duplicates"] = f"duplicates_{name}.png"
    write_sheet(args.out / f"duplicates_{name}.png", name, found.pairs, source.images)
    return found


def token_limits(args):
    """{kind of text: {limit: its name}}; CLIP's own limit beside that of the flag."""
    captions = {CLIP_CONTEXT: f"CLIP {CLIP_CONTEXT}"} | {
        args.max_caption_words: f"--max_caption_words {args.max_caption_words}"
    }
    queries = {CLIP_CONTEXT: f"CLIP {CLIP_CONTEXT}"} | {args.max_words: f"--max_words {args.max_words}"}
    return {"queries": queries, "captions": captions, "text": captions}


def language(name, splits):
    """As the list of communities says; of another folder `zh` if most letters of the queries are Chinese, else ""."""
    if name in COMMUNITIES and COMMUNITIES[name].language != "any":
        return COMMUNITIES[name].language
    kinds = Counter()
    for split in splits.values():
        for query in split.queries:
            kinds["letters"] += len(regex.findall(r"\p{L}", query))
            kinds["Chinese"] += len(regex.findall(r"\p{Han}", query))
            kinds["Japanese"] += len(regex.findall(r"[\p{Hiragana}\p{Katakana}]", query))
    return "zh" if kinds["Chinese"] > max(kinds["letters"] / 2, 20 * kinds["Japanese"]) else ""


def problems(name, leaks, pairs, unreadable):
    """Sentences about what spoils an evaluation, with the first ones that were found.

    An unreadable image is one of them: it is compared with no other, so that nothing is known of its duplicates.
    """
    found = {what: leaks[kind] for kind, what in LEAKS.items() if kind in leaks}
    found |= {what: [pair for pair in pairs if pair.kind == kind] for kind, what in DUPLICATES.items()}
    found["images that cannot be read, and are not compared"] = unreadable
    return [f"{name}: {what}: {len(these):,}: {_first(these)}" for what, these in found.items() if these]


def _first(found):
    listed = [each if isinstance(each, str) else _sides(each) for each in found[:SHOWN]]
    return "; ".join(listed) + ("; …" if len(found) > SHOWN else "")


def _sides(pair):
    sides = ((pair.first, pair.first_splits), (pair.second, pair.second_splits))
    return " = ".join(f"{shown(meme.image_id)[1:-1]} ({', '.join(splits)})" for meme, splits in sides)
