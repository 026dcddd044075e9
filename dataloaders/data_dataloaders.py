"""--datatype and paths -> checked splits -> loaders."""

import argparse
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from dataloaders import loader_processes
from dataloaders.batch_plan import BatchPlan
from dataloaders.communities import COMMUNITIES, missing_data_message
from dataloaders.image_transform import PAD_COLOUR, Colour, ImageSettings
from dataloaders.meme_dataset import MemeDataset, RecordDataset, Sample, SplitData, collate, query_batch
from dataloaders.meme_images import MemeImages
from dataloaders.meme_records import Split, emotion_ids, read_splits, texts
from dataloaders.readability import readability, readability_lines
from dataloaders.token_table import TextTokenizer, TokenTable
from util import InputError

TENSORS, PAGE = 9, 4096  # of a batch, and bytes that each takes at least in shared memory
SHOWN = 20  # of many bad images, as many are named in full


def csv_paths(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Path]:
    """{split: path} of the splits' CSVs; InputError which says what to put where, if one is missing."""
    community = COMMUNITIES[args.datatype]
    given = {"train": args.train_csv, "val": args.val_csv, "test": args.test_csv}
    if args.data_path is None and not (args.features_path and all(given[name] for name in names)):
        raise InputError("--data_path is not given: the folder with train.csv, val.csv, test.csv and images/")
    paths = {name: Path(given[name] or Path(args.data_path) / f"{name}.csv") for name in names}
    for path in paths.values():
        if not path.is_file():
            raise InputError(missing_data_message(community, path))
    return paths


def features_folder(args: argparse.Namespace) -> Path:
    return Path(args.features_path or Path(args.data_path) / "images")


def read_community(
    args: argparse.Namespace, names: Sequence[str], captions_needed: bool
) -> tuple[dict[str, Split], list[str]]:
    """The splits called `names`: ({name: Split}, lines to tell the user). All bad rows raise one InputError."""
    paths, folder = csv_paths(args, names), features_folder(args)
    if args.branches != "qc" and not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images (--features_path, default <data_path>/images)")
    needed = captions_needed and args.caption_source != "text"
    splits, notes = read_splits(paths, folder, read_captions=needed)
    if captions_needed:
        for name, split in splits.items():
            if not any(texts(meme, args.caption_source) for meme in split.memes):
                raise InputError(f"{name} split: no meme has a caption (--caption_source {args.caption_source})")
    return splits, notes


def check_images(
    args: argparse.Namespace,
    splits: dict[str, Split],
    image_size: int,
    progress: bool,
    interpolation: str = "bicubic",
    pad_colour: Colour = PAD_COLOUR,
    tell: Callable[[str], object] = print,
) -> tuple[MemeImages, dict[str, Split], list[str]]:
    """Decode all the splits' images once: (MemeImages, splits without bad ones, lines to tell the user).

    `image_size` (pixels a side), `interpolation`, `pad_colour`: of the image tower; the defaults are CLIP's. `tell`:
    what --image_cache takes, before it is written. Raises InputError that names the bad images, unless
    --skip_bad_images.
    """
    settings: ImageSettings = {
        "size": image_size,
        "resize_mode": args.resize,
        "max_frames": args.max_frames,
        "slice_framepos": args.slice_framepos,
        "interpolation": interpolation,
        "pad_colour": pad_colour,
    }
    images = MemeImages(features_folder(args), settings, args.image_cache)
    paths = list(dict.fromkeys(meme.image for split in splits.values() for meme in split.memes))
    bad = images.check(paths, progress, tell)
    if not bad:
        return images, splits, []
    shown = "\n  ".join(list(bad.values())[:SHOWN])
    more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    if not args.skip_bad_images:
        raise InputError(
            f"{len(bad)} of {len(paths)} images cannot be used (--skip_bad_images leaves their records out):\n  "
            f"{shown}{more}"
        )
    kept = {name: without_images(split, bad) for name, split in splits.items()}
    lost = {name: len(splits[name]) - len(kept[name]) for name in splits}
    lines = [f"--skip_bad_images: {len(bad)} images cannot be used; records left out: {lost}\n  {shown}{more}"]
    return images, kept, lines


def without_images(split: Split, bad: Container[str]) -> Split:
    """The split without the records whose image is in `bad`; InputError where nothing is left."""
    keep = np.array([split.memes[meme].image not in bad for meme in split.record_meme])
    if not keep.any():
        raise InputError(f"{split.name} split: no record is left without the images that cannot be used")
    topics, record_topic = np.unique(split.record_topic[keep], return_inverse=True)
    memes, record_meme = np.unique(split.record_meme[keep], return_inverse=True)
    return Split(
        name=split.name,
        topic_ids=[split.topic_ids[t] for t in topics],
        queries=[split.queries[t] for t in topics],
        memes=[split.memes[m] for m in memes],
        record_topic=record_topic.astype(np.int64),
        record_meme=record_meme.astype(np.int64),
    )


def tokenise(
    args: argparse.Namespace,
    split: Split,
    tokenizer: TextTokenizer,
    emotion_index: Mapping[str, int],
    images: MemeImages | None,
    captions_needed: bool,
) -> tuple[SplitData, dict[str, Any]]:
    """A split -> SplitData, and counts for the run's record: texts cut, captions left out, unknown emotions."""
    captions = offsets = None
    counts: dict[str, Any] = {
        "topics": len(split.queries),
        "memes": len(split.memes),
        "records": len(split),
        "memes_per_topic": round(len(split) / len(split.queries), 2),
    }
    queries = TokenTable(split.queries, tokenizer, args.max_words)
    counts["queries_cut"] = queries.counts()
    counts["queries_read"] = readability(split.queries, queries, tokenizer)
    if captions_needed:
        all_captions = [texts(meme, args.caption_source) for meme in split.memes]
        kept = [texts_of_one[: args.max_captions] for texts_of_one in all_captions]
        offsets = np.concatenate([[0], np.cumsum([len(group) for group in kept])])
        written = [text for group in kept for text in group]
        captions = TokenTable(written, tokenizer, args.max_caption_words)
        counts["captions_cut"] = captions.counts()
        counts["captions_read"] = readability(written, captions, tokenizer)
        counts["captions_left_out"] = sum(map(len, all_captions)) - len(captions)
    emotions = [emotion_ids(meme.emotions, emotion_index) for meme in split.memes]
    unknown = sorted({word for meme in split.memes for word in meme.emotions} - emotion_index.keys())
    counts["memes_without_emotions"] = sum(not meme.emotions for meme in split.memes)
    counts["emotions_outside_the_vocabulary"] = unknown
    return SplitData(split, queries, captions, offsets, emotions, images), counts


def count_lines(counts: Mapping[str, dict[str, Any]], emotions_are_read: bool) -> list[str]:
    """{split: the counts of `tokenise`} as lines for the log."""
    lines = []
    for name, of_split in counts.items():
        lines.append(f"{name}: {of_split['records']} records, {of_split['topics']} topics, {of_split['memes']} memes")
        for kind in ("queries", "captions"):
            cut = of_split.get(f"{kind}_cut")
            if cut and cut["cut"]:
                lines.append(
                    f"  {cut['cut']} of {cut['texts']} {kind} are longer than {cut['limit']} tokens and lose their "
                    f"end: {cut['tokens_lost']} tokens in all, at most {cut['most_lost_by_one']} in one"
                )
        if left_out := of_split.get("captions_left_out"):
            lines.append(f"  {left_out} captions beyond --max_captions are left out")
        if emotions_are_read and (unknown := of_split["emotions_outside_the_vocabulary"]):
            lines.append(
                f"  {len(unknown)} emotion words are not in the model's vocabulary, read as unknown: {unknown[:20]}"
            )
    return [*lines, *readability_lines(counts.values())]


def train_loader(
    args: argparse.Namespace,
    data: SplitData,
    plan: BatchPlan,
    rank: int,
    first_step: int,
    last_step: int,
    pin_memory: bool,
) -> DataLoader[Sample]:
    """This process's batches of the optimisation steps [first_step, last_step), decoded off the training thread."""
    dataset = RecordDataset(data, args.seed, args.caption_augmentation)
    return _loader(args, dataset, data, list(plan.shares(rank, first_step, last_step)), pin_memory)


def meme_loader(
    args: argparse.Namespace, data: SplitData, batches: Sequence[list[int]], pin_memory: bool
) -> DataLoader[Sample]:
    """Batches of memes; `batches`: lists of meme indices."""
    return _loader(args, MemeDataset(data), data, batches, pin_memory)


def _loader(
    args: argparse.Namespace,
    dataset: MemeDataset | RecordDataset,
    data: SplitData,
    batches: Sequence[list[int]] | Sequence[list[tuple[int, int]]],  # keys of the dataset
    pin_memory: bool,
) -> DataLoader[Sample]:
    workers, ahead = _workers(args, data), loader_processes.AHEAD
    if workers:
        memes_of: Callable[[Any], np.ndarray] = dataset.memes_of
        largest = batch_bytes(args, data, map(memes_of, batches))
        workers, ahead = loader_processes.fitting(workers, largest, loader_processes.free_for_this_process())
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        multiprocessing_context=loader_processes.start_method() if workers else None,
        worker_init_fn=loader_processes.enter,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own: making a loader must not move the run's random state
    )


def _collate(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    return loader_processes.shared(collate(samples))


def query_batches(data: SplitData, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
    """All queries of a split, in order, as batches."""
    for start in range(0, len(data.queries), batch_size):
        topics = list(range(start, min(start + batch_size, len(data.queries))))
        yield query_batch([data.queries[topic] for topic in topics], topics)


def _workers(args: argparse.Namespace, data: SplitData) -> int:
    """Loader processes; none where nothing is left to decode, unless a GPU would wait while images are copied."""
    if data.images is None:
        return 0
    if args.device != "cuda" and data.images.all_stored(meme.image for meme in data.split.memes):
        return 0
    return args.num_thread_reader


def batch_bytes(args: argparse.Namespace, data: SplitData, batches: Iterable[np.ndarray]) -> int:
    """The bytes that the largest of the batches takes at most; `batches`: the indices of each one's memes."""
    memes = data.split.memes
    per_meme = 8 * (3 + max(map(len, data.emotions), default=0)) + 9 * args.max_words  # ids of 8 bytes, masks of one
    if data.captions is not None and data.caption_offsets is not None:
        per_meme += 9 * int(np.diff(data.caption_offsets).max(initial=0)) * args.max_caption_words
    sizes = np.full(len(memes), per_meme)
    if data.images is not None:
        frames = data.images.frame_counts(meme.image for meme in memes)
        sizes += frames * 3 * data.images.settings["size"] ** 2 + frames.max(initial=0)
    return max((int(sizes[batch].sum()) for batch in batches), default=0) + TENSORS * PAGE


def worker_lines(args: argparse.Namespace, data: Mapping[str, SplitData], processes: int) -> list[str]:
    """What to tell the user, if shared memory has no room for the loader processes that are asked for.

    processes: how many train together. The split called `train` is trained on (one epoch is looked at), the others
    are evaluated.
    """
    wanted = largest = 0
    batches: Iterable[np.ndarray]
    for name, split in data.items():
        if not (workers := _workers(args, split)):
            continue
        if name == "train":
            plan = BatchPlan.of(args, split.split, processes)
            batches = map(RecordDataset(split, args.seed, False).memes_of, plan.shares(0, 0, plan.steps_per_epoch))
        else:
            memes = np.arange(len(split.split.memes))
            share = max(1, min(args.batch_size_val, len(memes)) // processes)
            batches = np.split(memes, range(share, len(memes), share))
        wanted, largest = workers, max(largest, batch_bytes(args, split, batches))
    note = loader_processes.reduced_note(wanted, largest, loader_processes.free_for_this_process())
    return [note] if note else []
