"""Ask a model about a meme that an OpenAI-compatible server offers: vLLM, Ollama, LM Studio, a hosted one."""

import base64
import functools
import json
import re
import sys
import threading

from tqdm import tqdm

from preprocess.annotation.answer import ANSWER_SCHEMA, Failure, Reply, checked_count, objects_in
from preprocess.annotation.bounded import MAX_BYTES, event_hooks, within
from preprocess.annotation.server_errors import (
    checked_address,
    checked_key,
    no_answer,
    plain,
    retry_after,
    status_error,
)
from util import InputError

KEY_NAMES = "OPENAI_API_KEY"
BY_SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "annotation", "strict": True, "schema": ANSWER_SCHEMA},
}
SCHEMA_IN_WORDS = f"\nThe JSON object follows this JSON schema: {json.dumps(ANSWER_SCHEMA)}"
TOKENS = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
TEMPERATURE, SCHEMA = "temperature 0", "a JSON schema"  # what some models or servers refuse
OPTION_WORDS = {
    TEMPERATURE: re.compile("temperature", re.IGNORECASE),
    SCHEMA: re.compile("response_format|json_schema|structured output", re.IGNORECASE),
}
THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details")  # where servers put them, and some the answer
THINKING = "the model's thinking is on; turn it off at the server, or let it write longer answers"
USED_UP = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}


class OpenAICompatible:
    """A provider, see `annotate.make_provider`. Several threads may ask at the same time.

    `key` is None for a server that asks for none; `base_url` None means OpenAI's own; `timeout`: seconds for a whole
    answer. A server that refuses temperature 0 or the JSON schema is asked again without, and from then on, which is
    said once. Raises InputError for a missing SDK, a broken key, an address that can be none.
    """

    name = "openai"
    most_answer_bytes = MAX_BYTES

    def __init__(self, model, key, base_url, timeout=120):
        try:
            import openai
        except ImportError:
            raise InputError("openai needs the package openai: pip install -r requirements-annotate.txt") from None
        self.model, self.timeout, self.sdk = model, timeout, openai
        self.secret = checked_key(key, KEY_NAMES) if key else None
        self.client = openai.OpenAI(
            api_key=self.secret or "none",
            base_url=checked_address(base_url),
            timeout=timeout,
            max_retries=0,
            http_client=openai.DefaultHttpxClient(event_hooks=event_hooks(timeout, self.most_answer_bytes)),
        )
        self.refused, self.lock = set(), threading.Lock()

    def answer(self, pictures, prompt):
        """The Reply about `pictures`, a list of JPEG files as bytes. Raises Failure, and InputError if no image can
        get an answer."""
        try:
            completion = only(self._completion(pictures, prompt))
            if isinstance(problem := getattr(completion, "error", None), dict):  # with the status 200, as routers do
                code = problem.get("code")
                said = plain(problem.get("message"), self.secret)
                raise status_error(code if isinstance(code, int) else 500, said, self.model, KEY_NAMES)
            return to_reply(completion, self.secret)
        except RecursionError:
            raise Failure("bad_answer", "the server's answer is JSON that is nested too deeply") from None

    def _completion(self, pictures, prompt):
        """The SDK's object for the server's answer, of whatever shape that is."""
        while True:
            refused = frozenset(self.refused)
            try:
                return within(self.timeout, functools.partial(self._ask, pictures, prompt, refused))
            except self.sdk.APIStatusError as error:
                self._note_refusal(error, refused)
            except self.sdk.APIConnectionError as error:
                raise no_answer(error.__cause__ or error, self.timeout, self.secret) from None
            except ValueError:
                raise Failure("bad_answer", "the server's answer is not JSON") from None

    def _ask(self, pictures, prompt, refused):
        return self.client.chat.completions.create(**self._request(pictures, prompt, refused))

    def _request(self, pictures, prompt, refused):
        options = {} if TEMPERATURE in refused else {"temperature": 0}
        options["response_format"] = {"type": "json_object"} if SCHEMA in refused else BY_SCHEMA
        if SCHEMA in refused:
            prompt += SCHEMA_IN_WORDS
        urls = [f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" for picture in pictures]
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content.append({"type": "text", "text": prompt})
        messages = [{"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, **options}

    def _note_refusal(self, error, refused):
        """Note what to ask without from now on; raises what the error status means if it is about something else."""
        said = plain(message_of(error), self.secret)
        if error.status_code in (400, 422):
            options = [option for option, words in OPTION_WORDS.items() if words.search(said)]
            for option in options:
                if option not in refused:
                    self._ask_without(option)
                    return
            if SCHEMA in options:
                raise InputError(f"the model {self.model!r} takes no response_format: {said}") from None
        if error.code in USED_UP:
            raise InputError(f"the quota of the key in {KEY_NAMES} is used up: {said}") from None
        wait = retry_after(error.response.headers)
        raise status_error(error.status_code, said, self.model, KEY_NAMES, wait) from None

    def _ask_without(self, option):
        with self.lock:
            if option not in self.refused:
                self.refused.add(option)
                tqdm.write(f"{self.model} does not take {option}: asking without it", file=sys.stderr)


def only(value):
    """What stands alone in a list, as Google's server sends its errors; anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def message_of(error):
    """What the server says, with its word for the kind of error: servers differ in where they put it."""
    body = only(error.body)
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        body = body["error"]
    if not isinstance(body, dict):
        return body or error.message
    said = body.get("message") or body.get("detail") or body
    words = (word for word in (error.code, error.param) if isinstance(word, str) and not word.isdigit())
    return " ".join([str(said), *(f"({word})" for word in words if word not in str(said))])


def to_reply(completion, secret):
    """The Reply in a chat completion. Raises Failure if it is refused, blocked, cut off or empty."""
    usage = getattr(completion, "usage", None)
    counts = {kind: getattr(usage, name, None) for kind, name in TOKENS.items()}  # paid for, also without an answer
    tokens = {kind: checked_count(count) for kind, count in counts.items()}
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list) or not choices:
        page = f": {plain(completion, secret)}" if isinstance(completion, str) else ""
        raise Failure("bad_answer", f"the answer has no choices{page}", **tokens)
    message, finish = getattr(choices[0], "message", None), getattr(choices[0], "finish_reason", None)
    content = getattr(message, "content", None)
    parts = content if isinstance(content, list) else [content]
    refusals = [part["refusal"] for part in parts if isinstance(part, dict) and part.get("refusal")]
    if refusal := getattr(message, "refusal", None) or "".join(map(str, refusals)):
        raise Failure("blocked", f"the model declines: {plain(refusal, secret)}", **tokens)
    if finish == "content_filter":
        raise Failure("blocked", "the server blocks the answer: content_filter", **tokens)
    field, thoughts = thoughts_of(message)
    if finish == "length":
        raise Failure("bad_answer", f"the answer was cut off: length{f'; {THINKING}' if thoughts else ''}", **tokens)
    text = "".join(map(text_of, parts))
    if not text.strip() and any("captions" in found for found in objects_in(thoughts)):
        text = thoughts
    if not text.strip():
        only_thoughts = f": there are only thoughts ({field}): {THINKING}" if thoughts else ""
        raise Failure("bad_answer", f"the answer is empty{only_thoughts}", **tokens)
    return Reply(text, **tokens)


def text_of(part):
    """What a message's content, or a part of it, says; "" for thoughts, pictures and what else there may be."""
    if isinstance(part, dict) and "captions" in part:
        return json.dumps(part)  # an answer that the server has read
    if isinstance(part, dict) and part.get("type", "text") in ("text", "output_text"):
        part = part.get("text")
        part = part.get("value") if isinstance(part, dict) else part
    return part if isinstance(part, str) else ""


def thoughts_of(message):
    """(field, text) of what the model thought before its answer; empty if the server does not say."""
    for field in THOUGHTS:
        found = getattr(message, field, None)
        parts = found if isinstance(found, list) else [found]
        texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
        if text := "".join(text for text in texts if isinstance(text, str)).strip():
            return field, text
    return "", ""
