"""What the network providers share: a server's error as a Failure or an InputError, in one line without the key."""

import email.utils
import importlib
import importlib.util
import re
import time

from preprocess.annotation.answer import Failure, without_key
from preprocess.annotation.bounded import too_slow
from preprocess.downloading.sources import split_http
from util import InputError

LONGEST = 300  # characters of a server's message
QUERY = re.compile(r"(https?://)(?:[^\s/@]*@)?([^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*)?")
BLOCKED = re.compile(r"content[_ ](?:filter|policy|management)|moderation|flagged|safety|prohibited", re.IGNORECASE)
IMAGE = re.compile("image|picture|base64|pixel", re.IGNORECASE)
NO_IMAGES = re.compile(  # about the model, not about this image
    r"not a multimodal|(?:support|accept|handle)s? (?:image input|images|vision)\b|image input is not|image_url is only"
    r"|content part type|required for image input",
    re.IGNORECASE,
)


def plain(text, secret):
    """`text` in one line, shortened, without the key `secret` and without users and queries of URLs."""
    text = without_key(str(text), secret)
    text = " ".join(QUERY.sub(r"\1\2", text).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def checked_key(key, key_names):
    """The key without surrounding space. A broken one would be quoted in the error of the HTTP library."""
    key = (key or "").strip()
    if not re.fullmatch("[!-~]+", key):
        raise InputError(f"{key_names} {'holds something that is no key' if key else 'is not set'}")
    return key


def checked_address(base_url):
    """`base_url` if it is an http(s) address or None; the InputError does not repeat it."""
    try:
        return base_url and split_http(base_url) and base_url
    except InputError:
        raise InputError("--base_url must be an address like http://host:port/path or https://host/path") from None


def retry_after(headers):
    """Seconds that a Retry-After header asks to wait, from a number or a date; None without one."""
    value = headers.get("retry-after") if headers is not None else None
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def status_error(code, said, model, key_names, wait=None):
    """The exception that the HTTP status `code` means: an InputError if every image would meet it, else a Failure.

    `said` is the server's message as `plain` gives it; `wait` are the seconds it asks to wait, or None.
    """
    if code == 401:  # what the server says may repeat a part of the key
        return InputError(f"the server refuses the key (401); check {key_names}")
    answer = f"the server answers {code} for the model {model!r}: {said}"
    if code in (400, 403, 422) and BLOCKED.search(said):
        return Failure("blocked", answer)
    if code in (402, 403):
        return InputError(f"{answer} (the key is that of {key_names})")
    if NO_IMAGES.search(said):
        return InputError(f"{answer} (it takes a model that reads images)")
    if code in (404, 405):
        return InputError(f"{answer} (check --model and --base_url)")
    if code == 429:
        return Failure("rate_limit", answer, wait)
    if code in (408, 409, 425) or code >= 500:
        return Failure("unavailable", answer, wait)
    about_image = code == 413 or IMAGE.search(said.replace(model, ""))
    return Failure("unreadable_image" if about_image else "bad_answer", answer)


def connection_errors():
    """The errors of whichever HTTP library is under an SDK: httpx2, httpx or requests, by the SDK's version."""
    names = [name for name in ("httpx2", "httpx", "requests") if importlib.util.find_spec(name)]
    modules = [importlib.import_module(name) for name in names]
    return tuple(
        getattr(module, "HTTPError" if "httpx" in module.__name__ else "RequestException") for module in modules
    )


def no_answer(error, timeout, secret):
    """The Failure for a connection that was refused, cut or too slow; `error` is the HTTP library's, or a Failure."""
    if isinstance(error, Failure):
        return error
    if "Timeout" in type(error).__name__:
        return too_slow(timeout)
    return Failure("unavailable", f"the connection failed: {plain(error, secret) or type(error).__name__}")
