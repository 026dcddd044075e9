"""What may be in a meme of imgflip: texts in plain ASCII, English, without links, garbage and blocked words."""

import functools
import re
import unicodedata
from pathlib import Path

from util import InputError

BLOCKED_WORDS = Path(__file__).with_name("blocked_words.txt")
MAX_CHARACTERS = 160  # in both texts of a meme together
PLAIN = str.maketrans({
    **dict.fromkeys("\u2018\u2019\u201b\u2032\u00b4`", "'"), **dict.fromkeys("\u201c\u201d\u201e\u2033", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"), "\u2026": "...",
})  # fmt: skip
FILLER = {"meme", "memes", "template", "blank", "the", "a"}
LINK = re.compile(r"https?:|www\.|[a-z0-9]\.(com|net|org|tv|gg|io|co|uk|de|ru)\b", re.IGNORECASE)
MASHED = re.compile("[bcdfghjklmnpqrstvwxz]{7,}")  # keys hit at random; "rhythms" has a y
MASKED = re.compile(r"[a-z]{1,3}(\*{2,}|[@#$%&*]{3,})[a-z]{0,4}")  # f***
ENGLISH = """
    a about after again all am an and any are as at back be because been but by can can't cant come could day did do
    does don't dont every everyone for from get go going good got had has have he her here him his how i i'll i'm
    i've if im in into is isn't it it's its just know like look make me my need never new no nobody not now of off
    on once one only or other our out over people really say see she should so some someone still take than that
    that's thats the their them then there these they thing this time to today too two up us use want was wasn't way
    we well were what when where which who why will with work would yeah yes you you're your youre
"""
OTHER_LANGUAGES = """
    que para pero como cuando los las una con mi tu te lo el esta este eso soy eres estoy hay muy tengo quiero todo nada
    porque donde nao voce voces uma meu minha isso ele ela quando mais essa esse fazer
    je il elle nous vous des une sont avec pour dans sur pas quand c'est j'ai qui ne ce cette mon ton
    ich du er wir ihr und nicht ist das ein eine einen mit wenn wie dein mein kein auch aber noch het een ik niet zijn
    van voor che sono gli della questo perche anche io mio sei
    yang dan ini itu tidak aku kamu saya untuk dengan apa gak yg kalo ang mga ako ikaw hindi sa ng ko mo ka
    nie jest sie ale bir ve bu icin jag och det inte som er ikke jeg og
"""
# Small words of English, and of the other languages on the site those that English sentences hardly have, unaccented:
# Spanish, Portuguese, French, German, Dutch, Italian, Indonesian, Filipino, Polish, Turkish, Scandinavian ones
SMALL_WORDS = {"English": frozenset(ENGLISH.split()), "other": frozenset(OTHER_LANGUAGES.split())}


def one_line(text):
    """The text without line breaks and spaces in excess."""
    return " ".join(text.split())


def to_ascii(text):
    """The text in ASCII, its accents left off and curly quotes straightened; None if it has other characters."""
    plain = _without_accents(text)
    return plain if plain.isascii() else None


def comparable(text):
    """Lower-case letters and digits only, without filler words: how titles, names and texts are compared."""
    words = re.findall("[a-z0-9]+", _without_accents(text).lower().replace("'", ""))
    return " ".join(word for word in words if word not in FILLER)


def _without_accents(text):
    decomposed = unicodedata.normalize("NFKD", text.translate(PLAIN))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def fault(text, blocked):
    """Why a text cannot be used, one of a few phrases; None if it can. blocked: BlockedWords."""
    plain = to_ascii(text)
    if plain is None:
        return "not ASCII"
    if LINK.search(plain):
        return "a link"
    if is_garbage(plain):
        return "garbage"
    if not is_english(plain):
        return "not English"
    category = blocked.category(plain)
    return f"a blocked word: {category}" if category else None


def is_garbage(text):
    """Hardly a letter, one letter over and over, or keys hit at random."""
    found = [c for c in text.lower() if c.isalnum()]
    shown = sum(not c.isspace() for c in text)
    once = re.sub(r"(.)\1+", r"\1", text.lower())
    return len(set(found)) < 2 or len(found) < 0.2 * shown or MASHED.search(once) is not None


def is_english(text):
    """Whether no other language has more of its small words in the text than English has."""
    words = re.findall("[a-z']+", text.lower())
    counts = {language: sum(word in small for word in words) for language, small in SMALL_WORDS.items()}
    return counts["other"] <= counts["English"]


class BlockedWords:
    """The table of blocked words: `category(text)` says to which category a text belongs, None for most."""

    def __init__(self, path=BLOCKED_WORDS):
        self.patterns = _read_patterns(Path(path))
        self.category_of_word = functools.lru_cache(maxsize=1 << 18)(self._category_of_word)

    def category(self, text):
        """The category of the first blocked word in an ASCII text."""
        for word in re.split(r"[\s.,;:?\"()\[\]{}/\\|+=<>~^_-]+", text.lower()):
            if category := self.category_of_word(word):
                return category
        return None

    def _category_of_word(self, word):
        if MASKED.fullmatch(word.strip("!'")):
            return "masked"
        bare = word.strip("!'*#@&%")
        forms = {bare, bare.removesuffix("'s"), *(re.sub(r"(.)\1{2,}", r"\1" * n, bare) for n in (1, 2))}
        for category, pattern in self.patterns:
            if any(map(pattern.fullmatch, forms)):
                return category
        return None


def _read_patterns(path):
    """[(category, compiled pattern)] in the file's order."""
    words = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: found no readable text file ({error}), expected the blocked words") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        category, colon, listed = line.partition(":")
        if not colon or not re.fullmatch(r"[a-z0-9*?\s]+", listed) or not category.strip():
            raise InputError(
                f"{path}, line {number}: found {line[:60]!r}, expected 'category: word word', words of lower-case"
                " letters, digits, * and ?"
            )
        if bare := [word for word in listed.split() if not word.strip("*?")]:
            raise InputError(f"{path}, line {number}: found {bare[0]!r}, expected a word with a letter or digit")
        words.setdefault(category.strip(), []).extend(listed.split())
    return [
        (category, re.compile("|".join(word.replace("*", ".*").replace("?", ".") for word in listed)))
        for category, listed in words.items()
    ]
