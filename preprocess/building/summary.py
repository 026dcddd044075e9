"""What build_community prints, and the counts that build.json keeps."""

import shlex

import numpy as np

from dataloaders.communities import SPLITS
from engine.arguments import build_parser
from modules.backbones.published import path_of
from preprocess.annotation.without_captions import flags_for
from preprocess.building.folder import counted
from preprocess.building.meme_groups import group_sizes
from preprocess.comparing.near_duplicates import TEXT_THRESHOLD
from util import InputError

SHOWN = 10
SCRATCH_BATCH = 64  # as in the README
FEW_TOPICS, FEW_MEMES = 10, 50  # where a split's numbers say little: fewer topics, or no more memes


def print_memes(community, compared, args, whole_templates):
    """Print what the memes are. compared: "text" or "captions". Returns counts, {what: number}.

    whole_templates: whether each template is kept in one split.
    """
    copies = sum(map(len, community.merged.values()))
    near, in_near = group_sizes(community.near)
    templates, in_templates = group_sizes(community.template)
    agree = f"hashes within {args.hash_threshold} of 64 bits"
    print(f"Memes: {len(community.memes):,}. Exact copies (the same bytes under another name), merged: {copies:,}.")
    kept = "each kept in one split"
    done = "each merged into one meme" if args.near_duplicates == "merge" else kept
    print(f"Near-duplicates ({agree}, {compared} within {TEXT_THRESHOLD:.0%}): {_groups(near, in_near, done)}")
    if compared == "captions" and near:
        print("  (No meme has a text. What captions quote is compared, and the captions of those that quote nothing.)")
    done = kept if whole_templates else "not kept together (--split_by template does it)"
    named = f"the column {args.template_column!r}, or near-duplicates" if args.template_column else f"{agree}, any text"
    print(f"Templates ({named}): {_groups(templates, in_templates, done)}")
    unknown = community.unknown_emotions
    if unknown:
        words = ", ".join(f"{word} ({count:,})" for word, count in unknown.most_common(SHOWN))
        more = f" and {len(unknown) - SHOWN:,} more" if len(unknown) > SHOWN else ""
        print(f"Emotion words outside the table, kept as they are (--emotion_table): {words}{more}.")
    return {
        "exact_copies": copies,
        "near_duplicate_groups": near,
        "memes_in_near_duplicate_groups": in_near,
        "template_groups": templates,
        "memes_in_template_groups": in_templates,
        "unknown_emotion_words": dict(unknown.most_common()),
    }


def _groups(count, memes, done):
    return f"{count:,} groups of {memes:,} memes in all, {done}." if count else "none."


def print_community(community, splits, args):
    """Print what was dropped and the splits' sizes; returns the counts. InputError if a split has no record."""
    dropped = counted(community.dropped)
    left_out = "".join(f"\n  {count:>9,}  {kind}" for kind, count in dropped.items())
    print(f"Records dropped: {len(community.dropped):,}{' (listed in dropped.csv)' * bool(dropped)}{left_out}")
    for number, name in enumerate(SPLITS):
        if not (splits == number).any():
            topics = len({record.topic_id for record in community.records})
            raise InputError(
                f"{name} split: no record is left in it. {len(splits):,} records are left in all, of"
                f" {len(community.memes):,} memes in {topics:,} topics, divided by {args.split_by}; dropped were"
                f" {', '.join(f'{count:,} ({kind})' for kind, count in dropped.items()) or 'none'}"
                + "".join(f", the first one {record.image}: {reason}" for record, reason in community.dropped[:1])
            )
    topic_ids = {topic: place for place, topic in enumerate(dict.fromkeys(r.topic_id for r in community.records))}
    topics = np.array([topic_ids[record.topic_id] for record in community.records])
    in_topic = np.zeros((len(topic_ids), len(SPLITS)))
    np.add.at(in_topic, (topics, splits), 1)
    in_all = int((in_topic > 0).all(axis=1).sum())
    in_topic /= in_topic.sum(axis=1, keepdims=True)
    by_record = args.split_by != "topic" and not args.from_json
    counts = {}
    print(f"{'':7}{'topics':>9}{'memes':>9}{'records':>9}{'wanted':>9}{'reached':>9}{'   in a topic' * by_record}")
    for number, (name, wanted) in enumerate(zip(SPLITS, wanted_shares(splits, args), strict=True)):
        here = splits == number
        row = {
            "topics": len(np.unique(topics[here])),
            "memes": len(np.unique(community.record_meme[here])),
            "records": int(here.sum()),
        }
        sizes = "".join(f"{count:>9,}" for count in row.values())
        spread = f"   {in_topic[:, number].min():.1%} to {in_topic[:, number].max():.1%}" * by_record
        print(f"{name:7}{sizes}{wanted:>9.1%}{here.mean():>9.1%}{spread}")
        counts[name] = row | {"wanted": round(float(wanted), 6), "reached": round(float(here.mean()), 6)}
    if by_record:
        print(f"Topics that are in all three splits: {in_all:,} of {len(topic_ids):,}.")
        print_elsewhere(list(topic_ids), (in_topic > 0).all(axis=1), np.bincount(topics))
    counts["templates_in_two_splits"] = print_templates(community, splits)
    for name in SPLITS[1:]:
        if counts[name]["topics"] < FEW_TOPICS or counts[name]["memes"] <= FEW_MEMES:
            print_small(name, counts[name]["topics"], counts[name]["memes"])
    return counts


def print_templates(community, splits):
    """Print how much of val and test has a template that train has; returns {split: the counts}."""
    labels = [community.template[np.unique(community.record_meme[splits == number])] for number in range(len(SPLITS))]
    found, parts = {}, []
    for name, here in zip(SPLITS[1:], labels[1:], strict=True):
        known = np.isin(here, labels[0])
        templates = len(np.unique(here)), len(np.unique(here[known]))
        found[name] = {
            "templates": templates[0],
            "in_train": templates[1],
            "memes": len(here),
            "of_these": int(known.sum()),
        }
        parts.append(f"{name} {known.mean():.1%} of its memes ({templates[1]:,} of {templates[0]:,} templates)")
    print(f"Templates that train has as well: {', '.join(parts)}.")
    return found


def print_elsewhere(topic_ids, in_all, records):
    """Warn of topics that are not in all splits. in_all: (T,) bool; records: (T,), how many a topic has."""
    absent = [
        (topic, count) for topic, there, count in zip(topic_ids, in_all, records.tolist(), strict=True) if not there
    ]
    if absent:
        some = (f"{topic!r} ({count:,} record{'s' * (count > 1)})" for topic, count in absent[:SHOWN])
        more = f" and {len(absent) - SHOWN:,} more" * (len(absent) > SHOWN)
        print(f"Warning: {len(absent):,} topics are not in all three splits: {', '.join(some)}{more}.")


def print_small(name, topics, memes):
    print(
        f"Warning: the {name} split is small: {topics:,} topics and {memes:,} memes. One query more or less moves R@1"
        f" by {100 / topics:.1f}{'; any model has an R@50 of 100' * (memes <= FEW_MEMES)}."
    )


def wanted_shares(splits, args):
    """The share of the records that each split should have; of a published split, test has what it has."""
    train, val, test = args.split
    if not args.from_json:
        return train, val, test
    test = (splits == 2).mean()
    return (1 - test) * train / (train + val), (1 - test) * val / (train + val), test


def print_next(community, splits, args, images, copied):
    """Print where the community is and the command that trains with it."""
    if copied and args.images_as == "hardlink":
        print(f"Hard links are impossible there: {copied:,} images were copied.")
    flags = ["--do_train", "--data_path", args.out]
    if args.images_as == "none":
        flags += ["--features_path", images.resolve()]
    if not any(meme.captions for meme in community.memes):
        without = [not meme.text.strip() for meme in community.memes]
        print(f"No meme has a caption; {sum(without):,} of {len(without):,} memes have no text either.")
        with_text = {splits[i] for i, meme in enumerate(community.record_meme) if not without[meme]}
        flags += flags_for(with_text, range(len(SPLITS)))
    scratch, size = size_flags(int((splits == 0).sum()))
    flags += [*size, "--output_dir", f"runs/{args.out.name}"]
    print(f"{args.out}: made. Train with it{scratch}:")
    print(f"  python main_task_retrieval.py {shlex.join(map(str, flags))}")


def size_flags(records):
    """(remark, flags) of a command that trains on so many records on this machine.

    From scratch where CLIP's weights are not here; the batch is no larger than the train split.
    """
    weights = path_of("ViT-B/32").is_file()
    remark = "" if weights else " (from scratch, as CLIP's weights are not here: python -m preprocess.download clip)"
    flags = [] if weights else ["--pretrained_clip_name", "ViT-tiny/8", "--lr", "1e-3"]
    return remark, [*flags, *batch_flags(records, None if weights else SCRATCH_BATCH)]


def batch_flags(records, wanted=None):
    """The flags of a batch of `wanted` records (default: the program's), no larger than a train split of `records`."""
    default = build_parser().get_default("batch_size")
    batch = min(wanted or default, 1 << (records.bit_length() - 1))
    return [] if batch == default else ["--batch_size", str(batch)]
