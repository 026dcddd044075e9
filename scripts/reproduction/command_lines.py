"""The command of each run: what scripts.reproduce sets, and those of the common flags that have an effect on it."""

import argparse
import json
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from engine.arguments import (
    build_parser,
    check_settings,
    check_task,
    given_flags,
    given_values,
    reads_captions,
    with_method,
    without_effect,
)
from modules.backbones.names import source_of
from scripts.references.sentence_encoder import NAMES as SENTENCE_ENCODERS
from scripts.reproduction.data_folders import PATHS
from scripts.reproduction.plan import Run
from util import InputError

# that scripts.reference has too
REFERENCE_FLAGS = {"test_csv", "features_path", "caption_source", "save_similarity", "save_run"}
SET_HERE = (
    *("do_train", "do_eval", "output_dir", "data_path", "datatype", "method", "seed"),
    *("resume_model", "init_model", "overwrite"),
)


class CommonFlags:
    """The flags after `--`, checked. groups: [(name, its tokens)] in order; values: namespace of those given."""

    def __init__(self, tokens):
        parser = build_parser()
        parser.prog, parser.usage = "python -m scripts.reproduce … --", argparse.SUPPRESS
        for action in parser._actions:
            action.default, action.required = argparse.SUPPRESS, False
        self.values = parser.parse_args(tokens)
        starts = [i for i, token in enumerate(tokens) if token.startswith("--")] + [len(tokens)]
        pieces = [tokens[start:end] for start, end in zip(starts, starts[1:], strict=False)]
        self.groups = [(*vars(parser.parse_args(piece)), piece) for piece in pieces]
        for name in vars(self.values):
            if name in SET_HERE:
                parser.error(f"--{name} is set by scripts.reproduce itself")

    def without(self, names):
        return [token for name, piece in self.groups if name not in names for token in piece]

    def check_paths(self, communities):
        """InputError where a path would be that of several communities."""
        given = [name for name in PATHS if name in self.values]
        if given and len(communities) > 1:
            raise InputError(f"--{given[0]} is for one community; {len(communities)} are given")


def make_runs(communities, methods, seeds, out, common, sentence_model=None):
    """[Run] of all communities, methods and seeds; a method that draws nothing has the first seed only.

    common: CommonFlags. sentence_model: of the sentence encoders. Raises one InputError with all the commands
    that make no sense.
    """
    if sentence_model and not any(method.name in SENTENCE_ENCODERS for method in methods):
        raise InputError(f"--sentence_model is for {' and '.join(SENTENCE_ENCODERS)}, which are not asked for")
    runs, errors = [], []
    for method in methods:
        try:
            runs += runs_of(method, communities, seeds, Path(out), common, sentence_model)
        except InputError as error:
            errors.append(f"{method.name}: {error}{conflict(method, common, error)}")
    if errors:
        raise InputError("\n".join(errors))
    for name, _ in common.groups:
        if all(name in run.dropped for run in runs):
            raise InputError(f"--{name} has no effect on any of the methods ({', '.join(m.name for m in methods)})")
    order = [community.name for community in communities]
    return sorted(runs, key=lambda run: order.index(run.community))


def runs_of(method, communities, seeds, out, common, sentence_model):
    """Yields the runs of one method."""
    dropped = dropped_flags(method, common)
    for community in communities:
        for seed in seeds if method.seeded else seeds[:1]:
            folder = out / community.name / method.name / f"seed_{seed}"
            flags = ["--datatype", community.datatype, "--data_path", str(community.folder)]
            flags += ["--output_dir", str(folder), "--seed", str(seed), *common.without(dropped)]
            if method.group == "reference":
                parts = reference_parts(method, flags, sentence_model)
            else:
                parts = program_parts(method, flags)
            yield Run(community.name, method, seed, folder, **parts, dropped=tuple(dropped))


def dropped_flags(method, common):
    """The names of the common flags that have no effect on a method."""
    if method.group == "reference":
        return vars(common.values).keys() - REFERENCE_FLAGS
    dropped = set()
    while True:  # a flag that is left out may leave another one without effect
        argv = with_method([*task(method), "--output_dir", ".", *common.without(dropped)])
        useless = {name for name, _ in without_effect(build_parser().parse_args(argv), given_flags(argv))}
        useless &= vars(common.values).keys() - dropped
        if not useless:
            return dropped
        dropped |= useless


def conflict(method, common, error):
    """A sentence where an error is about flags that the method itself sets: which common flag they do not go with."""
    own = given_values(method.flags).keys() - vars(common.values).keys()
    own = [f"--{name}" for name in sorted(own & set(re.findall(r"--(\w+)", str(error))))]
    if not own:
        return ""
    to_blame = [" ".join(piece) for name, piece in common.groups if goes_with(method, common.without({name}))]
    given = " or ".join(to_blame) or "the flags"
    return (
        f". The method itself sets {' and '.join(own)}, which does not go with {given} for every run: leave out the "
        "one or the other"
    )


def goes_with(method, tokens):
    """Whether a method of main_task_retrieval.py makes sense with these common flags."""
    common = CommonFlags(tokens)
    try:
        program_parts(method, ["--output_dir", ".", *common.without(dropped_flags(method, common))])
    except InputError:
        return False
    return True


def task(method):
    return ["--do_train" if method.trained else "--do_eval", "--method", method.name]


def program_parts(method, flags):
    """What a Run of main_task_retrieval.py has of its own. InputError where its flags make no sense."""
    argv = [*task(method), *flags]
    args, given = build_parser().parse_args(with_method(argv)), given_flags(with_method(argv))
    check_task(args, given)
    check_settings(args, given)
    return {
        "command": (sys.executable, "main_task_retrieval.py", *argv),
        "settings": _as_recorded(args),
        "captions": args.caption_source if reads_captions(args) else None,
        "reads_images": args.branches != "qc",
    }


def reference_parts(method, flags, sentence_model):
    """What a Run of scripts.reference has of its own."""
    from scripts.reference import to_arguments

    if method.name in SENTENCE_ENCODERS and sentence_model:
        flags = [*flags, "--sentence_model", sentence_model]
    args = to_arguments([method.name, *flags])
    return {
        "command": (sys.executable, "-m", "scripts.reference", method.name, *flags),
        "settings": vars(args),
        "captions": args.caption_source,
        "reads_images": False,
    }


def _as_recorded(args):
    """The flags as args.json of the run has them."""
    from engine.build_model import complete_arguments

    if args.do_train:
        complete_arguments(args)
    return json.loads(json.dumps(vars(args)))


def check_requirements(runs):
    """InputError where weights are missing that are looked for in a file or folder, or a package that a run needs."""
    from modules.backbones.published import path_of
    from modules.backbones.weights_file import read_weights

    trained = _settings(runs)
    for name, *_ in loaded_clips(runs):
        if not path_of(name).is_file():
            read_weights(path_of(name))  # raises the message that says where it comes from
    berts = {args.bert_name for args in trained if args.branches != "qc" and args.emotion_encoder == "bert"}
    sentence_models = {run.settings["sentence_model"] for run in runs if run.method.name in SENTENCE_ENCODERS}
    for flag, names in (("bert_name", berts), ("sentence_model", sentence_models)):
        if absent := sorted(name for name in names if is_path(name) and not Path(name).is_dir()):
            raise InputError(f"--{flag} {absent[0]}: no such folder")
    wanted = {run.method.name for run in runs if run.method.group == "reference"}
    packages = {"bm25": "bm25s", **dict.fromkeys(SENTENCE_ENCODERS, "sentence_transformers")}
    missing = sorted(name for name in wanted if not find_spec(packages[name]))
    if missing:
        raise InputError(
            f"{' and '.join(missing)}: pip install -r requirements-references.txt, or give --methods without reference"
        )
    if berts and not find_spec("transformers"):
        raise InputError("--emotion_encoder bert needs transformers: pip install -r requirements-hf.txt")


def loaded_clips(runs):
    """The CLIPs that are read from files by these runs: {(name, activation, *heads): None}, as their flags say them."""
    from engine.build_model import starts_from_scratch

    return dict.fromkeys(
        (args.pretrained_clip_name, args.clip_activation, *(args.clip_heads or ()))
        for args in _settings(runs)
        if not starts_from_scratch(args) and source_of(args.pretrained_clip_name) == "openai"
    )


def _settings(runs):
    return [argparse.Namespace(**run.settings) for run in runs if run.method.group != "reference"]


def check_weights(runs):
    """InputError where the weights that these runs begin with are not known to fit: now, not in each run."""
    from engine.build_model import load_towers
    from modules.backbones.openai import read_clip
    from modules.backbones.published import path_of

    for name, activation, *heads in loaded_clips(runs):
        read_clip(path_of(name), activation, heads or None)
    others = {}  # by what they are asked for
    for args in _settings(runs):
        if source_of(args.pretrained_clip_name) != "openai":
            needs = args.branches, args.emotion_fusion, args.visual_tokens, args.embed_dim
            others[args.pretrained_clip_name, needs] = args
    for args in others.values():
        load_towers(args, notes=[])


def is_path(name):
    """Whether this can only be a path: a name on the Hugging Face hub is `name` or `owner/name`."""
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1
