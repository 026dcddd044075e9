"""What earlier versions called the values in a run's records: their names had spaces."""

from typing import Any

NOW = {
    "captions left out (--max_captions)": "captions_left_out",
    "peak memory (MiB)": "peak_memory_mib",
    "records/s": "records_per_second",
}  # of the others the spaces alone have changed


def renamed(record: Any) -> Any:
    """A record as JSON has it, whose names are changed, at any depth and in place, to those of today."""
    waiting = [record]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            for name in list(part):
                part[NOW.get(name, str(name).replace(" ", "_"))] = part.pop(name)
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return record
