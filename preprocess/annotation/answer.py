"""What is asked about a meme and what counts as an answer: schema, prompt, the check of an answer, failures."""

import json
import re
from typing import NamedTuple

from dataloaders.cells import is_blank

PASSING = ("rate_limit", "unavailable")  # the same request may succeed a moment later
FAILURES = ("blocked", "rate_limit", "bad_answer", "unreadable_image", "unavailable")
LANGUAGES = {"en": "English", "zh": "Chinese (中文)"}
MAX_CAPTIONS = 30
MAX_ANSWER = 200_000  # characters
MAX_OPENINGS = 1000  # places of an answer that is not JSON where an object is looked for
MAX_TOKENS = 10**9  # which a server can mean

ANSWER_SCHEMA = {
    "type": "object",
    "properties": {
        "captions": {
            "type": "array",
            "items": {"type": "string"},
            "description": "1 to 3 sentences, each of which says what the meme shows and quotes the text on it",
        },
        "text": {"type": "string", "description": "the text on the image, verbatim; empty if there is none"},
        "emotions": {
            "type": "array",
            "items": {"type": "string"},
            "description": "one emotion word per person or character with a readable expression; may be empty",
        },
    },
    "required": ["captions", "text", "emotions"],
    "additionalProperties": False,
}

DECLINES = (
    r"(?:(?:i|we)(?:['’]m| am|['’]re| are)? (?:(?:can|could|do|will|wo)(?:n['’]t|['’]t| ?not)|unable to|not able to)"
    r" (?:\w+ ){0,3}(?:help|assist|describe|provide|comply|answer|process|analy[sz]e|fulfil|discuss|engage|generate"
    r"|create|continue|caption|identify|view|interpret|complete)"
    r"|(?:i['’]m|i am) (?:very |so |really )?sorry,? (?:but )?(?:i|this|that|as an)\b"
    r"|as an ai\b"
    r"|(?:无法|不能|不便|不会|难以|無法)(?:为您|为你|对此|对该|对这[张个幅])?"
    r"(?:提供|协助|協助|處理|回答|处理|描述|帮助|满足|完成|分析|识别|生成|讨论|回应)"
    r"|(?:抱歉|对不起|很遗憾)[，,。!！ ]*(?:但|我|这|该|无法|不能)"
    r"|作为(?:一个|一名)?(?:ai|人工智能))"
)
REFUSAL = re.compile(DECLINES, re.IGNORECASE)
BEFORE = (  # words with which a refusal may begin
    r"(?:(?:sorry|unfortunately|(?:i|we) apologi[sz]e|my apologies"
    r"|我?(?:很|非常|十分)?(?:抱歉|对不起|遗憾))\W*(?:but |但)?)?"
    r"(?:(?:由于|因为|根据|出于)[^，,。]{1,40}[，,] *)?我?"
)
REFUSED_CAPTION = re.compile(BEFORE + DECLINES, re.IGNORECASE)
SHORTEST_KEY = 8  # characters; what servers without keys are given ("x", "EMPTY") is no secret
UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # NUL bytes, halves of a character


def without_key(text, key):
    """The text with *** in place of a key, whatever its case."""
    return re.sub(re.escape(key), "***", text, flags=re.IGNORECASE) if key and len(key) >= SHORTEST_KEY else text


def checked_count(count):
    """A server's count of tokens if it is one, else None."""
    return count if type(count) is int and 0 <= count <= MAX_TOKENS else None


class Failure(Exception):
    """An image that got no answer: `status` is one of FAILURES; `retry_after`, in seconds, if the server said it.

    Tokens are those that the server counted for the failed request, if it did. The message may be long and of
    several lines: `annotate` removes the key and then shortens it.
    """

    def __init__(self, status, message, retry_after=None, input_tokens=None, output_tokens=None):
        if status not in FAILURES:
            raise ValueError(f"{status!r} is not one of {', '.join(FAILURES)}")
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
        self.input_tokens, self.output_tokens = input_tokens, output_tokens


class Reply(NamedTuple):
    """A model's answer as it came: `answer` is the raw JSON text; tokens are None where the server does not say."""

    answer: str
    input_tokens: int | None
    output_tokens: int | None


class Answer(NamedTuple):
    """A checked answer. `emotions` are lower-cased words, not mapped; `notes` say what was mended or left out."""

    captions: tuple
    text: str
    emotions: tuple
    notes: tuple


def default_prompt(language, vocabulary):
    """The request that goes with each image; captions are asked for in `language`, "en" or "zh"."""
    return f"""\
You describe a meme for a search engine. If there are several pictures, they are frames of one animation, in order.
Answer with one JSON object with the fields "captions", "text" and "emotions", and with nothing else.

- "captions": 1 to 3 sentences in {LANGUAGES[language]}. Each says what is shown: the persons or characters, the \
scene, what they do. Name a person or character only if you are sure. Each ends by quoting the text on the image, if \
there is any. Do not explain the joke.
- "text": the text on the image, verbatim, in its own language, in reading order, with a line break between separate \
blocks. Leave out watermarks. "" if there is no text.
- "emotions": one word per person or character whose expression can be read, from left to right; an animal or a \
drawing counts. Always one of these English words: {", ".join(vocabulary)}. [] if no expression can be read.
"""


def check_answer(raw, needs_captions=True):
    """The Answer in a model's `raw` text. Raises Failure: bad_answer, or blocked if the model declines.

    The JSON may be inside ``` fences or have text around it. Unknown fields and empty captions are left out, as is
    what comes after MAX_CAPTIONS captions. `needs_captions` False accepts an answer without captions.
    """
    notes = []
    value = find_object(raw, notes)
    if unknown := [name for name in value if name not in ANSWER_SCHEMA["properties"]]:
        notes.append(f"left out the unknown fields {', '.join(map(repr, unknown))}")
    captions = texts_of(value, "captions", raw)
    text = value.get("text")
    if text is None:
        notes.append("no 'text'")
        text = ""
    if not isinstance(text, str):
        raise bad(f"'text' is not a text but {json.dumps(text)}", raw)
    emotions = texts_of(value, "emotions", raw)
    if value.get("emotions") is None:
        notes.append("no 'emotions'")
    captions = [caption for caption in (clean(each, notes).strip() for each in captions) if not is_blank(caption)]
    if len(captions) > MAX_CAPTIONS:
        notes.append(f"{len(captions)} captions; the first {MAX_CAPTIONS} were kept")
        captions = captions[:MAX_CAPTIONS]
    if needs_captions and all(REFUSED_CAPTION.match(caption) for caption in captions):
        said = json.dumps({name: part for name, part in value.items() if name != "text"}, ensure_ascii=False)
        if REFUSAL.search(said):
            raise Failure("blocked", f"the model declines: {raw}")
        raise bad("there is no caption", raw)
    words = (" ".join(clean(word, notes).lower().split()) for word in emotions)
    return Answer(
        tuple(captions),
        clean(text, notes),
        tuple(word for word in words if not is_blank(word)),
        tuple(dict.fromkeys(notes)),
    )


def find_object(raw, notes):
    """The JSON object in `raw`: all of it, or the last one in it that has captions, or else the first.

    It may stand in a list, and in a JSON text.
    """
    if len(raw) > MAX_ANSWER:
        raise Failure("bad_answer", f"the answer has {len(raw):,} characters; at most {MAX_ANSWER:,} are read")
    try:
        value = json.loads(raw, strict=False)  # line breaks in a text, as small models write them
    except (ValueError, RecursionError):
        notes.append("the JSON had other text around it")
        value = with_captions(list(objects_in(raw)))
        if value is None:
            if REFUSAL.search(raw[:500]):
                raise Failure("blocked", f"the model declines: {raw}") from None
            raise bad("it is not JSON", raw) from None
    if isinstance(value, list) and value:
        notes.append("the JSON object stood in a list")
        value = with_captions([each for each in value if isinstance(each, dict)]) or value[0]
    if isinstance(value, str):
        notes.append("the JSON object stood in a JSON text")
        return find_object(value, notes)  # which is shorter
    if not isinstance(value, dict):
        raise bad("it is not a JSON object", raw)
    return value


def with_captions(objects):
    """The last of the dicts that has captions, or else the first; None if there is none."""
    return next((each for each in reversed(objects) if "captions" in each), objects[0] if objects else None)


def objects_in(raw):
    """Yield the JSON objects that stand in a text, outermost ones only; MAX_OPENINGS braces are tried."""
    decoder, end = json.JSONDecoder(strict=False), 0
    for _ in range(MAX_OPENINGS):
        position = raw.find("{", end)
        if position < 0:
            return
        try:
            value, end = decoder.raw_decode(raw, position)
            yield value
        except (ValueError, RecursionError):
            end = position + 1


def texts_of(value, name, raw):
    """The texts of a field: of a list of texts or of {person: text} objects, or of one such object; None is empty."""
    found = value.get(name)
    elements = [] if found is None else [found] if isinstance(found, dict) else found
    if not isinstance(elements, list) or (name == "captions" and isinstance(found, dict)):
        raise bad(f"{name!r} is not a list", raw)
    texts = []
    for element in elements:
        texts += element.values() if isinstance(element, dict) and name == "emotions" else [element]
    if not all(isinstance(each, str) for each in texts):
        raise bad(f"{name!r} holds something that is not a text", raw)
    return texts


def clean(text, notes):
    """`text` without NUL bytes and halves of a character."""
    cleaned = UNWRITABLE.sub("", text)
    if cleaned != text:
        notes.append("left out NUL bytes or halves of a character")
    return cleaned


def bad(reason, raw):
    return Failure("bad_answer", f"{reason}: {raw.strip()}" if raw.strip() else "the answer is empty")
