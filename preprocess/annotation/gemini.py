"""Ask Gemini about a meme, through Google's SDK google-genai."""

import functools
import re

from preprocess.annotation.answer import ANSWER_SCHEMA, Failure, Reply, checked_count
from preprocess.annotation.bounded import MAX_BYTES, event_hooks, within
from preprocess.annotation.server_errors import (
    checked_address,
    checked_key,
    connection_errors,
    no_answer,
    plain,
    retry_after,
    status_error,
)
from util import InputError

KEY_NAMES = "GEMINI_API_KEY or GOOGLE_API_KEY"
BLOCKED_REASONS = {
    "SAFETY",
    "RECITATION",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
    "MODEL_ARMOR",
    "ESCALATION",
}
TOKEN_KINDS = ("prompt", "candidates", "thoughts")
FINISHED = {"", "STOP", "FINISH_REASON_UNSPECIFIED"}


class Gemini:
    """A provider, see `annotate.make_provider`. Several threads may ask at the same time.

    `base_url` replaces Google's address, e.g. by that of a proxy; `timeout`: seconds for a whole answer. Raises
    InputError for a missing SDK, an empty key, and a name or address that can be none.
    """

    name = "gemini"
    most_answer_bytes = MAX_BYTES

    def __init__(self, model, key, base_url=None, timeout=120):
        try:
            from google import genai
            from google.genai import errors, types
        except ImportError:
            raise InputError("gemini needs google-genai: pip install -r requirements-annotate.txt") from None
        if not re.fullmatch(r"[\w.@/-]+", model) or ".." in model:
            raise InputError(f"{model!r} is no name of a Gemini model")
        self.model, self.secret, self.timeout = model, checked_key(key, KEY_NAMES), timeout
        self.types, self.errors, self.connection_errors = types, errors, connection_errors()
        # without retry_options the SDK does not retry; it wants milliseconds
        options = {
            "base_url": checked_address(base_url),
            "timeout": round(1000 * timeout),
            "client_args": {"event_hooks": event_hooks(timeout, self.most_answer_bytes)},
        }
        options = {name: value for name, value in options.items() if value is not None}
        self.client = genai.Client(vertexai=False, api_key=self.secret, http_options=options)
        # the older of the two schema fields is the one that every version of the SDK and of the API has
        schema = {name: value for name, value in ANSWER_SCHEMA.items() if name != "additionalProperties"}
        self.config = types.GenerateContentConfig(
            temperature=0,
            response_mime_type="application/json",
            response_schema=types.Schema.model_validate(schema),
        )

    def answer(self, pictures, prompt):
        """The Reply about `pictures`, a list of JPEG files as bytes. Raises Failure, and InputError if no image can
        get an answer."""
        contents = self._contents(pictures, prompt)
        try:
            ask = functools.partial(self.client.models.generate_content, config=self.config)
            response = within(self.timeout, functools.partial(ask, model=self.model, contents=contents))
        except self.errors.APIError as error:
            raise self._meaning(error) from None
        except self.connection_errors as error:
            raise no_answer(error, self.timeout, self.secret) from None
        except (ValueError, TypeError, AttributeError):  # what the SDK raises for another shape than Gemini's
            raise Failure("bad_answer", "the server's answer is not in Gemini's format") from None
        except RecursionError:
            raise Failure("bad_answer", "the server's answer is JSON that is nested too deeply") from None
        return to_reply(response)

    def _contents(self, pictures, prompt):
        types = self.types
        parts = [types.Part.from_bytes(data=picture, mime_type="image/jpeg") for picture in pictures]
        return [types.Content(role="user", parts=[*parts, types.Part(text=prompt)])]

    def _meaning(self, error):
        """The Failure or InputError that an error status with Google's details means."""
        said = plain(error.message or error.details or "no message", self.secret)
        details = details_of(error.details)
        if error.code == 400 and "API key" in said:
            return InputError(f"Gemini refuses the key; check {KEY_NAMES}")
        lasting = error.code == 400 and (
            error.status == "FAILED_PRECONDITION"  # the country, billing
            or re.search("schema|mime_?type|json mode|temperature", said, re.IGNORECASE)
        )
        if lasting:
            return InputError(f"the server answers 400 for the model {self.model!r}: {said}")
        quotas = [str(violation.get("quotaId")) for detail in details for violation in detail.get("violations") or []]
        if error.code == 429 and any("PerDay" in quota for quota in quotas):
            return InputError(
                f"the daily quota for the model {self.model!r} is used up; go on when it is renewed: {said}"
            )
        wait = next((seconds(detail["retryDelay"]) for detail in details if "retryDelay" in detail), None)
        if wait is None:
            wait = retry_after(getattr(error.response, "headers", None))
        return status_error(error.code, said, self.model, KEY_NAMES, wait)


def details_of(body):
    """The objects under error.details of an error's JSON, [] if it has another shape."""
    error = body.get("error") if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []


def seconds(duration):
    """'34.5s' -> 34.5; None for what is no duration."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)s", str(duration))
    return float(match[1]) if match else None


def to_reply(response):
    """The Reply in a GenerateContentResponse. Raises Failure if it is blocked, cut off or empty."""
    tokens = tokens_of(response.usage_metadata)  # paid for, also without an answer
    if blocked := reason_of(response.prompt_feedback, "block_reason"):
        raise Failure("blocked", f"Gemini blocks the request: {blocked}", **tokens)
    if not response.candidates:
        raise Failure("bad_answer", "the answer has no candidates", **tokens)
    candidate = response.candidates[0]
    finish = reason_of(candidate, "finish_reason")
    if finish in BLOCKED_REASONS:
        raise Failure("blocked", f"Gemini blocks the answer: {finish}", **tokens)
    if finish not in FINISHED:
        raise Failure("bad_answer", f"the answer was cut off: {finish}", **tokens)
    parts = (candidate.content and candidate.content.parts) or []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    if not text.strip():
        raise Failure("bad_answer", "the answer is empty", **tokens)
    return Reply(text, **tokens)


def tokens_of(usage):
    """Reply's two counts. Thoughts are paid for like the answer; older versions of the SDK do not count them."""
    counts = {kind: checked_count(getattr(usage, f"{kind}_token_count", None)) for kind in TOKEN_KINDS}
    outputs = [count for kind, count in counts.items() if kind != "prompt" and count is not None]
    return {"input_tokens": counts["prompt"], "output_tokens": sum(outputs) if outputs else None}


def reason_of(holder, name):
    """The name of an enumeration's value, also of one that the SDK does not know; "" if there is none."""
    reason = getattr(holder, name, None)
    return str(getattr(reason, "value", reason) or "")
