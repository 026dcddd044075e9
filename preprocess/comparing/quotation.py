"""Where a caption quotes the words on the image: what a cut at the caption's end takes away first."""

import re
import string

QUOTED = re.compile('“([^”]*)”?|「([^」]*)」?|『([^』]*)』?|«([^»]*)»?|"([^"]*)"?')

MOST_COMPARED = 10**7  # characters of a text times those of a caption, each of which may be compared with each
LETTERS = set(string.ascii_letters + string.digits)


def quotation(caption, text):
    """(start, end) in characters of what `caption` quotes, without the quotation marks; None if nothing.

    That is the meme's `text`, if the caption has it as it is or line by line (then from the first line found to the
    last one), in any case and white space unless both are very long; else the last passage in quotation marks, also
    one never closed.
    """
    lines = text.splitlines()
    for parts in ([text], lines if len(lines) * len(caption) <= MOST_COMPARED else []):
        places = [place for place in (_last_place(part, caption) for part in parts) if place]
        if places:
            return min(start for start, _ in places), max(end for _, end in places)
    passages = [passage for passage in QUOTED.finditer(caption) if re.search(r"\w", passage[0])]
    return passages[-1].span(passages[-1].lastindex) if passages else None


def _last_place(part, caption):
    """(start, end) of the last place where `caption` has `part` as words of its own, or None."""
    part = part.strip()
    if not part:
        return None
    start = caption.rfind(part)  # as it is, nearly always; building an expression for each text takes long
    if start >= 0 and not {caption[start - 1 : start], caption[start + len(part) :][:1]} & LETTERS:
        return start, start + len(part)
    if len(part) * len(caption) > MOST_COMPARED:
        return None
    pattern = r"\s+".join(map(re.escape, part.split()))
    places = list(re.finditer(f"(?<![a-z0-9]){pattern}(?![a-z0-9])", caption, re.IGNORECASE))
    return places[-1].span() if places else None
