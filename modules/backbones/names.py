"""Which source of towers a `--pretrained_clip_name` is of. Nothing is imported here."""

PREFIXES = {"hf:": "hf", "open_clip:": "open_clip", "pair:": "pair"}
SMALL = "small"  # a pair whose weights come from a package index


def source_of(name: str) -> str:
    """hf, open_clip, pair or openai: which file beside this one knows the name."""
    if name == SMALL:
        return "pair"
    return next((source for prefix, source in PREFIXES.items() if name.startswith(prefix)), "openai")
