"""The command line of `annotate`, checked, and the provider that it names."""

import argparse
import os
from pathlib import Path

from engine.arguments import non_negative, positive_int
from preprocess.annotation import emotion_words
from preprocess.annotation.answer import LANGUAGES, without_key
from preprocess.annotation.shards import shard
from preprocess.downloading.sources import split_http
from util import InputError, Parser

PROVIDERS = ("gemini", "openai", "gemini-batch", "openai-batch", "local")
BATCH = "-batch"  # ends the names of those that answer within a day
NOT_FOR_LOCAL = ("model", "base_url", "prompt", "timeout", "price_input", "price_output", "max_cost")
KEYS = {"gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"), "openai": ("OPENAI_API_KEY",)}
TIMEOUT, TRANSFER = 120.0, 1800.0  # seconds for an answer, for a batch's file
POLL, AT_ONCE = 60.0, 4
EPILOG = """\
Keys come from the environment: GEMINI_API_KEY or GOOGLE_API_KEY; OPENAI_API_KEY (a server of your own may need none).
The same command goes on where the last call stopped. Exit codes: 0 every image asked for has a row, also if some have
failed; 1 an error; 2 a wrong command line; 3 not all is done, as --max_cost was reached or a batch came back without
some answers; 130 Ctrl-C.
"""


def build_parser():
    parser = Parser(
        description="Write captions, text and emotion words of the memes in a folder.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--images", required=True, metavar="DIR", help="the folder of the images, with its subfolders")
    add("--out", required=True, metavar="FILE", help="annotations.jsonl: a line per image is appended to it")
    add("--provider", required=True, choices=PROVIDERS,
        help="…-batch: within a day, at half the price; local is weaker and writes no captions, but needs neither "
        "network nor key")  # fmt: skip
    add("--model", metavar="NAME", help="the model, as the provider names it today (not with local)")
    add("--base_url", metavar="URL", help="the server, such as http://localhost:8000/v1; with gemini, a proxy")
    add("--prompt", metavar="FILE", help="a prompt of your own, taken as it stands (--dry-run prints the default one)")
    add("--language", choices=tuple(LANGUAGES), default="en",
        help="in which the default prompt asks for captions; stored in each row (default: %(default)s)")  # fmt: skip
    add("--emotion_table", metavar="FILE", default=emotion_words.DEFAULT,
        help="CSV of words and the emotions to ask for (default: preprocess/annotation/emotion_words.csv)")  # fmt: skip
    add(
        "--workers", type=positive_int, default=4, metavar="N", help="images asked about at once (default: %(default)s)"
    )
    add("--shard", type=shard, metavar="I/N",
        help="ask about the I-th of N parts of the images alone, and write --out's name with I-of-N in it")  # fmt: skip
    add("--limit", type=positive_int, metavar="N", help="ask about at most N images in this call")
    add("--retry_failed", action="store_true", help="ask about those images again whose last row is not ok, no others")
    add("--dry-run", "--dry_run", action="store_true", help="print what would be asked; send and write nothing")
    add("--price_input", type=non_negative, metavar="USD", help="per million input tokens, for the costs")
    add("--price_output", type=non_negative, metavar="USD", help="per million output tokens")
    add("--max_cost", type=positive, metavar="USD",
        help="begin no further image once all rows in the file cost as much (needs the prices)")  # fmt: skip
    add("--max_side", type=positive_int, default=1024, metavar="N",
        help="longest side of a picture that is sent, in pixels (default: %(default)s)")  # fmt: skip
    add("--max_frames", type=positive_int, default=3, metavar="N",
        help="pictures of an animation that are sent (default: %(default)s)")  # fmt: skip
    add("--timeout", type=positive, metavar="S",
        help=f"seconds for a whole answer (default: {TIMEOUT:g}), of a batch for each file ({TRANSFER:g})")  # fmt: skip
    add("--batches", type=positive_int, metavar="N", help=f"batches under way at once (default: {AT_ONCE})")
    add("--poll", type=positive, metavar="S", help=f"seconds between two looks at them (default: {POLL:g})")
    add(
        "--allow_mixed",
        action="store_true",
        help="go on with a file that holds rows of another model or prompt: ask about images without a row",
    )
    return parser


def positive(text):
    value = non_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is too little")
    return value


def check_arguments(arguments):
    """InputError for flags that do not go together."""
    provider = arguments.provider
    if provider == "local":
        for name in NOT_FOR_LOCAL:
            if getattr(arguments, name) is not None:
                raise InputError(f"--{name} has no effect with --provider local; leave it out")
    elif not arguments.model:
        raise InputError(f"--provider {provider} needs --model; names change, so that none is built in")
    for name in ("batches", "poll"):
        if getattr(arguments, name) is not None and not provider.endswith(BATCH):
            raise InputError(f"--{name} is for gemini-batch and openai-batch; leave it out")
    if (arguments.price_input is None) != (arguments.price_output is None):
        raise InputError("--price_input and --price_output are given together or not at all")
    if arguments.max_cost is not None and arguments.price_input is None:
        raise InputError("--max_cost needs --price_input and --price_output")
    if arguments.base_url is not None:
        check_base_url(arguments.base_url)


def check_base_url(url):
    """InputError, without the address, for one that is none or that holds a secret."""
    try:
        parts = split_http(url)
    except InputError:
        raise InputError("--base_url must be an address like http://localhost:8000/v1") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError("--base_url must have no user, password or query; keys come from the environment")


def read_prompt(path):
    """The text of a file; InputError if it cannot be read or is empty."""
    try:
        prompt = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found bytes that are not UTF-8, expected UTF-8") from error
    if not prompt.strip():
        raise InputError(f"{path}: found an empty file, expected a prompt")
    return prompt


def make_provider(arguments):
    """The provider that the arguments name. InputError: no key, or a package that is not installed."""
    if arguments.provider == "local":
        from preprocess.annotation.local import Local

        return Local(arguments.language)
    in_batches = arguments.provider.endswith(BATCH)
    family = arguments.provider.removesuffix(BATCH)
    settings = {"base_url": arguments.base_url, "timeout": arguments.timeout or (TRANSFER if in_batches else TIMEOUT)}
    key = key_of(*KEYS[family])
    if family == "gemini":
        from preprocess.annotation.gemini import Gemini
        from preprocess.annotation.gemini_batch import GeminiBatch

        if key is None:
            raise InputError("--provider gemini needs a key: set GEMINI_API_KEY or GOOGLE_API_KEY in the environment")
        return (GeminiBatch if in_batches else Gemini)(arguments.model, key, **settings)
    from preprocess.annotation.openai_batch import OpenAIBatch
    from preprocess.annotation.openai_compatible import OpenAICompatible

    if key is None and arguments.base_url is None:
        raise InputError("--provider openai needs OPENAI_API_KEY in the environment, or --base_url of a server")
    return (OpenAIBatch if in_batches else OpenAICompatible)(arguments.model, key, **settings)


def key_of(*names):
    """The first of these environment variables that is not empty, or None."""
    return next((key for name in names if (key := os.environ.get(name, "").strip())), None)


def without_keys(text):
    """The text with *** in place of any key in the environment."""
    for name in KEYS["gemini"] + KEYS["openai"]:
        text = without_key(text, key_of(name))
    return text
