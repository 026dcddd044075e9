"""The memes of an ImgFlip575K checkout: which can be used, and in which order."""

import re
from collections import Counter
from typing import NamedTuple

from preprocess.imgflip575k.templates import Template
from preprocess.imgflip575k.text_filter import MAX_CHARACTERS, comparable, fault, is_garbage, one_line
from util import progress_bar, read_json

MEME_ID = re.compile(r"imgflip\.com/(?:i/)?([0-9A-Za-z]{1,40})(?:\.\w+)?$")  # of a post or an image
GROUPED = re.compile(r"[0-9]+|[0-9]{1,3}(?:[,. '\u2019\u00a0\u202f][0-9]{3})+")  # a number as people write it
LONGEST_NUMBER, MOST_VIEWS = 40, 10**15
NEARLY = 0.1  # of a text's letters, in a word in which another text may differ


class Meme(NamedTuple):
    """upper, lower: the texts on it, each on one line. title: its author's, "" if it is only a template's name."""

    meme_id: str
    template: Template
    upper: str
    lower: str
    title: str

    @property
    def image_id(self):
        return f"{self.template.slug}-{self.meme_id}"

    @property
    def text(self):
        return f"{self.upper} {self.lower}"


def read_memes(templates, names, blocked):
    """(clean memes, Counter of what was read and why memes were dropped): grouped by template.

    Within a template those with a title of their own come first, then those with more views. names: comparable
    forms of all templates' names. blocked: BlockedWords. Raises InputError for a broken file.
    """
    memes, counts, ids = [], Counter(), set()
    with progress_bar(templates, desc="reading the memes", unit="template") as progress:
        for template in progress:
            found = read_json(template.memes, list, "a list of memes")
            counts["read"] += len(found)
            clean = []
            for entry in found:
                meme, views, reason = to_meme(entry, template, names, blocked)
                if reason is None and meme.meme_id in ids:
                    reason = "a repeated id"
                if reason is None:
                    ids.add(meme.meme_id)
                    clean.append((not meme.title, -views, meme.meme_id, meme))
                else:
                    counts[reason] += 1
            clean.sort(key=lambda entry: entry[:3])
            distinct = without_repeats(meme for *_, meme in clean)
            counts += Counter({"nearly the same text": len(clean) - len(distinct)})  # none is not counted
            memes += distinct
    return memes, counts


def to_meme(entry, template, names, blocked):
    """(Meme, views, None), or (None, 0, why it cannot be used) for one entry of a memes file."""
    entry = entry if isinstance(entry, dict) else {}
    facts = entry["metadata"] if isinstance(entry.get("metadata"), dict) else {}
    found = [MEME_ID.search(entry[key]) for key in ("post", "url") if isinstance(entry.get(key), str)]
    meme_id = next((match[1] for match in found if match), None)
    boxes = entry["boxes"] if isinstance(entry.get("boxes"), list) else []
    boxes = [one_line(box) if isinstance(box, str) else "" for box in boxes]
    text = " ".join(boxes)
    if meme_id is None:
        reason = "no id"
    elif len(boxes) != 2 or not all(boxes):
        reason = "not two texts"
    elif len(text) > MAX_CHARACTERS:
        reason = f"longer than {MAX_CHARACTERS} characters"
    else:
        reason = fault(text, blocked) or ("garbage" if any(map(is_garbage, boxes)) else None)
    if reason:
        return None, 0, reason
    return Meme(meme_id, template, *boxes, own_title(facts.get("title"), names, blocked)), _views(facts), None


def own_title(title, names, blocked):
    """A title of at least two words which could be a meme's text too and is no template's name; else ""."""
    title = one_line(title) if isinstance(title, str) else ""
    words = comparable(title)
    if " " not in words or words in names or len(title) > MAX_CHARACTERS or fault(title, blocked):
        return ""
    return title


def _views(facts):
    """A number, or a text with thousands separators; 0 for what can be no number of views."""
    found = facts.get("views")
    if isinstance(found, str) and len(found) <= LONGEST_NUMBER and GROUPED.fullmatch(found.strip()):
        found = int(re.sub("[^0-9]", "", found))
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < MOST_VIEWS:
        return 0
    return int(found)


def without_repeats(memes):
    """The memes without those whose text nearly is that of an earlier one: the same but for one short word.

    A word is short if it has at most a tenth of the text's letters. Case, punctuation and doubled letters do not
    count. Linear in the number of memes: two such texts agree in what is left without the word.
    """
    seen, kept = set(), []
    for meme in memes:
        words = re.sub(r"(.)\1+", r"\1", comparable(meme.text)).split()
        letters = sum(map(len, words))
        forms = {tuple(words)}
        forms |= {(*words[:i], *words[i + 1 :]) for i, word in enumerate(words) if len(word) <= NEARLY * letters}
        forms = {" ".join(form) for form in forms}
        if seen.isdisjoint(forms):
            kept.append(meme)
            seen |= forms
    return kept
