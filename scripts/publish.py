"""Publish a trained model: a folder, or a repository on the Hugging Face Hub, that others load by its name.

    python -m scripts.publish RUN --to FOLDER
    python -m scripts.publish RUN --to hub:OWNER/NAME

RUN is the folder (--output_dir) of a training run that has ended. Its best checkpoint becomes model.safetensors, with
the weights of the towers; config.json has the settings, without paths of this machine; README.md is the model card:
what the run's records say, and the questions that only the owner can answer, which --answers fills. An older
publication in the same place is replaced, and with it a card that was edited by hand.

A repository is made private unless --public is given. The hub's token is that of `hf auth login`, or HF_TOKEN's. What
was published is loaded by --init_model FOLDER or hub:OWNER/NAME, and by `python -m recommend index --model`.

Exit code: 0; 1 for a run or a place that cannot be used; 2 for wrong flags; 130 after Ctrl-C.
"""

import argparse
import tempfile
from pathlib import Path

from util import Parser, ending_clearly, program


def to_arguments(argv):
    parser = Parser(
        prog="python -m scripts.publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a training run that has ended")
    add("--to", required=True, metavar="PLACE", help="the folder to make, or hub:OWNER/NAME")
    add("--public", action="store_true", help="with hub: everyone may see and load it (default: private)")
    add("--answers", type=Path, metavar="FILE",
        help='the owner\'s answers, a JSON object: {"license": "mit"}; the card lists the questions')  # fmt: skip
    args = parser.parse_args(argv)
    if args.public and not args.to.startswith("hub:"):
        parser.error("--public does nothing with a folder")
    return args


def publish(args):
    """Write or upload the model, and print what it is and which questions are open. Raises InputError."""
    from engine.published_model import HUB
    from preprocess.describing.questions import read_answers
    from scripts.publishing.folder import asked_of, check_place, read_trained, write_files, write_folder
    from scripts.publishing.hub import Repository
    from scripts.publishing.questions import QUESTIONS

    answers = read_answers(args.answers, QUESTIONS)
    if args.to.startswith(HUB):
        place = Repository(args.to, args.public)
    else:
        place = Path(args.to).resolve()
        check_place(place)
    run, state = read_trained(args.run)
    if isinstance(place, Path):
        write_folder(place, run, state, answers)
        print(f"{args.to}: made; --init_model {args.to} loads it")
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), run, state, place.title, args.to, answers)
            name, address = place.upload(Path(folder))
        print(f"{name}: published, {'public' if args.public else 'private'}: {address}")
    if left := [key for key in asked_of(state["arguments"]) if key not in answers]:
        print(f"{len(left)} questions are open, which only the owner of the model can answer: {', '.join(left)}")
        print("README.md, the card, has them; --answers FILE fills them in")


@program
def main(argv=None):
    args = to_arguments(argv)
    with ending_clearly("stopped; an older publication there is as it was"):
        publish(args)


if __name__ == "__main__":
    main()
