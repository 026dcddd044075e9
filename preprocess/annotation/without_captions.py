"""How to train on memes without captions: one rule for annotate, build_community and the README."""

BY_TEXT = ("--caption_source", "text")
BY_IMAGE = ("--branches", "qi", "--caption_fusion", "none")


def flags_for(splits_with_text, splits):
    """The flags of main_task_retrieval.py: every split needs memes with text on them, if that is to be read."""
    return BY_TEXT if set(splits) <= set(splits_with_text) else BY_IMAGE


def advice(with_text, images):
    """The rule as a sentence, where the splits are not known yet: so many of the images have text."""
    if not with_text:
        return f"No image has text: train with {' '.join(BY_IMAGE)}."
    return (
        f"{with_text:,} of {images:,} images have text: train with {' '.join(BY_TEXT)}, or, if a split has no meme with"
        f" text, with {' '.join(BY_IMAGE)}. build_community prints the command."
    )
