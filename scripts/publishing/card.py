"""README.md of a published model: the model card, as the Hugging Face Hub reads it, from the run's own records."""

import json
import re
import shlex
from pathlib import PureWindowsPath

from dataloaders.communities import COMMUNITIES
from engine.arguments import build_parser, reads_captions
from engine.test_record import table_lines
from modules.backbones.names import SMALL, short, source_of, without_folders
from preprocess.measuring.number_tables import markdown, markdown_table
from scripts.publishing.questions import QUESTIONS
from scripts.reporting import sections, shown_runs
from util import InputError

TAGS = ("ief", "meme-retrieval", "text-to-image-retrieval", "memes", "emotion")
PACKAGES = {"openai": "", "hf": "-r requirements-hf.txt ", "open_clip": "-r requirements-open_clip.txt "}
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]+")  # as the hub calls one


def card(run, flags, title, name, asked, answers):
    """The text. run: of shown_runs; flags: its settings, a namespace without paths of this machine; name: what
    --init_model takes; asked: keys of QUESTIONS; answers: {key: answer}.
    """
    lines = ["---", *_header(run, flags, title, answers), "---", ""]
    lines += [f"# {markdown(title)}", "", _description(run, flags), ""]
    lines += ["## Use", "", *_use(flags, name), "", "## What it is", "", *_what_it_is(run, flags), ""]
    lines += ["## What it was trained on", "", *_data(run, flags), "", "## What it reaches", "", *_results(run), ""]
    lines += ["## How it was made", "", *_making(run), "", "## What it is for, and its limits", "", *_limits(flags), ""]
    if answers:
        lines += ["## What the owner says", ""]
        for key, answer in answers.items():
            lines += [f"**{QUESTIONS[key]}**", "", answer.strip(), ""]
    if left := [key for key in asked if key not in answers]:
        lines += [f"## Open questions ({len(left)})", "", "Only the owner of the model can answer these.", ""]
        lines += [f"- `{key}`: {QUESTIONS[key]}" for key in left]
        lines += [""]
    return "\n".join(lines)


def _header(run, flags, title, answers):
    """The lines of the YAML that programs read. Its values are written as JSON, which is YAML too."""
    community = COMMUNITIES[flags.datatype]
    values = {"library_name": "ief", "pipeline_tag": "feature-extraction", "tags": TAGS}
    if community.language != "any":
        values["language"] = community.language
    yield from (f"{key}: {json.dumps(value)}" for key, value in values.items())
    if "license" in answers:
        named = LICENCE.fullmatch(answers["license"].strip())
        yield f"license: {named[0] if named else 'other'}"
    else:
        yield "# license: the owner's to say, see the open questions"
    test = run.metrics["test"]
    task = {"type": "retrieval", "name": "memes for a sentence"}
    dataset = {
        **{"type": community.slug, "name": community.name, "split": "test"},
        "args": {"queries": test["queries"], "memes": test["memes"], "sha256": _checksum(run, "test")},
    }
    yield from ("model-index:", f"- name: {json.dumps(title)}", "  results:")
    yield from (f"  - task: {json.dumps(task)}", f"    dataset: {json.dumps(dataset)}", "    metrics:")
    for metric, value in run.scores["fused"]["query_to_meme"]["metrics"].items():
        shown = {"type": metric, "value": round(value, 4), "name": f"{metric}, query to meme"}
        yield f"    - {json.dumps(shown)}"


def _community(flags):
    return COMMUNITIES[flags.datatype].name if flags.datatype != "custom" else "the owner's own"


def _description(run, flags):
    method = shown_runs.title(run)
    return (
        "This model ranks memes for a sentence, such as “when the deadline is tomorrow”. It is an IEF"
        f"{f' (method {markdown(flags.method)}: {markdown(method)})' if method else ''}: it compares the sentence with "
        f"{_compared(flags)}."
    )


def _compared(flags):
    emotions = "" if flags.emotion_fusion == "none" else ", joined with the emotions of the persons on it"
    parts = {"qi": f"a meme's image{emotions} (QI)", "qc": "its captions (QC)"}
    if flags.branches != "qi_qc":
        return parts[flags.branches].replace("its", "a meme's")
    return f"{parts['qi']}, and with {parts['qc']}, and weighs the two"


def _use(flags, name):
    folder = "" if name.startswith("hub:") else ", and FOLDER for this one"
    return [
        f"With the program that made it; words in capitals stand for paths on your machine{folder}:",
        "",
        "```sh",
        f"pip install {PACKAGES.get(source_of(flags.pretrained_clip_name), _of_a_pair(flags))}-r requirements-hub.txt",
        f"python -m recommend index --model {name} --images IMAGES --out INDEX",
        'python -m recommend search INDEX "when the deadline is tomorrow"',
        f"python main_task_retrieval.py --do_eval --init_model {name} --data_path COMMUNITY --output_dir RUN",
        "```",
        "",
        "With `--do_train` in place of `--do_eval` a new run starts from it.",
    ]


def _of_a_pair(flags):
    return f"-r requirements-{'small' if flags.pretrained_clip_name == SMALL else 'pair'}.txt "


def _what_it_is(run, flags):
    towers = "text tower" if flags.branches == "qc" else "towers"
    lines = [
        f"- model.safetensors holds all weights, those of the {towers} `{flags.pretrained_clip_name}` included. "
        "Nothing else is fetched to use it.",
        "- config.json has the settings, the emotion words that the model knows, and the checksums of the other files.",
    ]
    if flags.emotion_fusion != "none" and flags.emotion_encoder == "bert":
        lines.append(f"- The emotion words' vectors come from the BERT `{flags.bert_name}`, which is not part of it.")
    if count := sections.parameters(run):
        lines.append(f"- Parameters: {count}.")
    if alpha := sections.alpha(run):
        lines.append(f"- score = α QI + (1 − α) QC, α = {alpha}.")
    return lines


def _data(run, flags):
    counts = run.metrics.get("counts") or {}
    rows = [("split", "records", "topics", "memes", "SHA-256 of the CSV")]
    for split in counts or run.start.get("data", {}):
        numbers = (f"{counts[split][what]:,}" if split in counts else "–" for what in ("records", "topics", "memes"))
        rows.append((split, *numbers, _checksum(run, split) or "–"))
    return [
        f"Community: {_community(flags)}. A record says that a meme was posted in a topic, "
        "whose text is the query. The model was trained on train. val chose the epoch, and test was scored once, at "
        "the end.",
        "",
        markdown_table(rows, left=(0, 4)),
    ]


def _checksum(run, split):
    return run.start.get("data", {}).get(split, {}).get("csv")


def _results(run):
    return ["```text", *(line for line in table_lines(run.metrics["test"]) if line), "```"]


def _making(run):
    flags = ", ".join(f"{flag} {value}" for flag, value in shown_runs.unusual_flags(run))
    facts = {
        "settings that are not the defaults": flags or "none",
        "seed": str(run.args.get("seed")),
        "best epoch": sections.best_epoch(run),
        "device": sections.device(run),
        "time": sections.times(run),
        "versions": sections.named_numbers(run.metrics.get("versions") or {}),
        "code version": sections.code_version(run),
        "started from": run.args.get("init_model") and shown_start(run.args["init_model"]),
    }
    rows = [("what", "how it was"), *((what, how) for what, how in facts.items() if how)]
    command = shown_command(run.metrics["command"], run.folder / "metrics.json")
    return [markdown_table(rows, left=(0, 1)), "", "```sh", command, "```"]


def _limits(flags):
    lines = [
        "It is made to find memes for a sentence in a collection of memes. A score compares the memes of one search. "
        "It is no probability, and scores of different sentences or collections do not compare.",
        f"It was trained and tested on one community, {_community(flags)}. What it gives for other "
        "communities, languages and times was not measured.",
        f"It reads the first {flags.max_words} tokens of a sentence.",
    ]
    if reads_captions(flags):
        lines.append(
            f"It reads up to {flags.max_captions} captions of a meme, {flags.max_caption_words} tokens each. A meme "
            "without captions ranks lower."
        )
    if flags.branches != "qc" and flags.emotion_fusion != "none":
        lines.append("The emotions of the persons on a meme are given to it as words; it does not recognise them.")
    lines.append(
        "Memes show people, and can be rude or hateful. Nothing here looks for that or filters it: what the collection "
        "has can be found."
    )
    return [f"- {line}" for line in lines]


def shown_start(name):
    """The model that a run started from: a name on the hub as it is, of a file that it was one."""
    return name if name.startswith("hub:") else "another model of this program, a file of its owner's"


def shown_command(command, path):
    """A run's command line, as others can give it: for each of this machine's paths its flag in capitals."""
    paths = {action.dest for action in build_parser()._actions if action.metavar in ("DIR", "FILE")}
    towers = {"pretrained_clip_name": without_folders, "bert_name": short}
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"{path}: found a command that no shell would read ({error})") from None
    shown, flag = [], ""
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else (flag, "", word)
        if not equals and word.startswith("--"):
            shown.append(word)
            flag = word
            continue
        dest = name.lstrip("-")
        if dest in paths or (dest == "init_model" and not value.startswith("hub:")):
            value = dest.upper()
        elif dest in towers:
            value = towers[dest](value)
        elif value.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", value):
            value = PureWindowsPath(value).name
        shown.append(f"{name}={value}" if equals else value)
        flag = ""
    return shlex.join(shown)
