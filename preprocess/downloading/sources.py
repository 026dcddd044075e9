"""Where downloads come from: http(s):// and s3:// addresses, read as chunks from any byte on."""

import contextlib
import re
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from util import InputError

CHUNK = 1 << 18
TIMEOUT = (15, 60)  # seconds to connect, and between two reads
PASSING_STATUSES = {408, 425, 429, 500, 502, 503, 504}  # the same request may succeed a moment later


class Dropped(Exception):
    """The transfer broke off; another attempt may succeed. Its text never holds a URL."""


class Changed(Exception):
    """The source does not hold (any more) what the partial file is the beginning of."""


class Reply(NamedTuple):
    start: int  # position of the first byte of `chunks` in the whole file
    total: int | None  # size of the whole file in bytes, where the source says it
    tag: str | None  # identifies the version of the file: strong ETag, else Last-Modified
    chunks: object  # iterator over bytes; raises Dropped


def without_secrets(source):
    """The address without user, password, query and fragment: what may be printed."""
    if source.lower().startswith("s3://"):
        return source
    parts = split_http(source)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


def split_http(url):
    """The parts of an http(s) URL; InputError (which does not repeat the URL) for anything else."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not match
        valid = False
    if not valid:
        raise InputError("the source must be an address like https://host/file, http://host/file or s3://bucket/key")
    return parts


def split_s3(url):
    """(bucket, key) of s3://bucket/key. A key may hold any character, '?' and '#' too."""
    bucket, _, key = url[len("s3://") :].partition("/")
    if not bucket or not key:
        raise InputError(f"{url}: expected s3://bucket/key")
    return bucket, key


def file_name(source):
    """The name under which a source is stored: the last part of its path."""
    path = split_s3(source)[1] if source.lower().startswith("s3://") else unquote(split_http(source).path)
    name = PurePosixPath(path).name
    if path.endswith("/") or name in ("", "..") or "\0" in name:
        raise InputError(f"{without_secrets(source)}: the address must end with the name of a file")
    return name


def open_source(source, start, tag, endpoint_url=None):
    """Context manager: the `Reply` with the bytes of `source` from `start` on, of version `tag` if known.

    A source that cannot continue at `start` answers with the whole file: `Reply.start` is 0 then. Raises
    `Changed` (only when start > 0), `Dropped`, and InputError for what another attempt cannot mend.
    """
    if source.lower().startswith("s3://"):
        return open_s3(source, start, tag, endpoint_url)
    return open_http(source, start, tag)


@contextlib.contextmanager
def open_http(url, start, tag):
    import requests

    # Compressed on the fly, a file's size and positions would not be those of the stored file.
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if tag:
            headers["If-Range"] = tag
    shown = without_secrets(url)
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.exceptions.SSLError as error:
        raise InputError(f"{shown}: no trusted connection: {reason(error)}") from None
    except requests.RequestException as error:  # its text holds the whole URL: pass on only the cause
        if isinstance(error, ValueError):
            raise InputError(f"{shown}: not a valid address") from None
        raise Dropped(reason(error)) from None
    with response:
        status = response.status_code
        if status in PASSING_STATUSES:
            raise Dropped(f"the server answers {status} {response.reason}")
        if status == 416 and start:
            raise Changed
        if status not in (200, 206):
            raise InputError(f"{shown}: the server answers {status} {response.reason}")
        found_tag = http_tag(response.headers)
        if status == 206:
            first, total = content_range(response.headers.get("Content-Range"))
            if first != start or (tag and found_tag and found_tag != tag):
                if not start:
                    raise InputError(f"{shown}: the server sends only a part of the file")
                raise Changed
        else:
            first, total = 0, to_int(response.headers.get("Content-Length"))
        yield Reply(first, total, found_tag, http_chunks(response))


def http_chunks(response):
    import urllib3

    try:
        yield from response.raw.stream(CHUNK, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Dropped(reason(error)) from None


def http_tag(headers):
    etag = headers.get("ETag")
    # If-Range accepts no weak ETag: it does not promise the same bytes
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def content_range(header):
    """(first byte, size of the whole file) of a Content-Range header; (None, None) if unreadable."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", header or "")
    return (int(match[1]), to_int(match[2])) if match else (None, None)


def to_int(text):
    return int(text) if text and text.isdecimal() else None


def reason(error):
    """What the system said at the root of an error ("Connection refused"), without the addresses around."""
    found = type(error).__name__
    while error is not None:
        found = getattr(error, "strerror", None) or found
        error = error.__cause__ or error.__context__
    return found


@contextlib.contextmanager
def open_s3(source, start, tag, endpoint_url):
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from botocore.exceptions import ConnectionError as NotConnected

    bucket, key = split_s3(source)
    wanted = {"Range": f"bytes={start}-", **({"IfMatch": tag} if tag else {})} if start else {}
    client, signed = s3_client(endpoint_url)
    try:
        answer = client.get_object(Bucket=bucket, Key=key, **wanted)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        code, text = (error.response["Error"].get(part, "") for part in ("Code", "Message"))
        if start and status in (412, 416):
            raise Changed from None
        if status in PASSING_STATUSES:
            raise Dropped(f"S3 answers {status} {code}") from None
        hint = " (unsigned: no AWS credentials were found)" if status == 403 and not signed else ""
        raise InputError(f"{source}: S3 answers {status} {code}: {text}{hint}") from None
    except (NotConnected, HTTPClientError) as error:
        raise Dropped(reason(error)) from None
    except BotoCoreError as error:
        raise InputError(f"{source}: {error}") from None
    with contextlib.closing(answer["Body"]) as body:
        first, total = 0, answer["ContentLength"]
        if "ContentRange" in answer:
            first, total = content_range(answer["ContentRange"])
            if first != start:
                raise Changed
        yield Reply(first, total, answer.get("ETag"), s3_chunks(body))


def s3_client(endpoint_url):
    """(client, whether it signs its requests): without credentials in boto3's usual places it does not."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.session.Session()
        signed = session.get_credentials() is not None
        config = Config(
            connect_timeout=TIMEOUT[0],
            read_timeout=TIMEOUT[1],
            retries={"total_max_attempts": 1},  # download.py makes the further attempts
            signature_version=None if signed else UNSIGNED,
        )
        return session.client("s3", endpoint_url=endpoint_url, config=config), signed
    except (
        BotoCoreError,
        ValueError,
    ) as error:  # an unknown profile, half of a key pair, an endpoint that is no URL
        raise InputError(f"S3 cannot be used with these settings: {type(error).__name__}") from None


def s3_chunks(body):
    from botocore.exceptions import BotoCoreError

    try:
        yield from body.iter_chunks(CHUNK)
    except (BotoCoreError, OSError) as error:
        raise Dropped(reason(error)) from None
