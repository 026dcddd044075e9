"""A folder that an interrupted program goes on with: from the start, its manifest says with what arguments."""

import json

from util import InputError, write_json


def begin(out, manifest, arguments):
    """Make the folder `out` and note in its file `manifest` for what; InputError if it holds something else."""
    out.mkdir(parents=True, exist_ok=True)
    if all(path.name == f".{manifest}.partial" for path in out.iterdir()):
        write_json(out / manifest, {"arguments": arguments})
        return
    try:
        found = json.loads((out / manifest).read_text(encoding="utf-8"))["arguments"]
        differing = [key for key in arguments | found if arguments.get(key) != found.get(key)]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise InputError(f"{out} is not empty and not made by this program; choose another folder") from None
    if differing:
        made = ", ".join(f"{key} {found.get(key)}, not {arguments.get(key)}" for key in differing)
        raise InputError(f"{out} was made with other arguments or data: {made}; remove it or choose another folder")
