"""What the network providers' HTTP clients are held to: so many bytes and so many seconds for the whole answer.

`event_hooks` go into an httpx or httpx2 client. Their own timeouts begin anew with every byte that arrives.
"""

import importlib
import queue
import threading
import time

from preprocess.annotation.answer import Failure

MAX_BYTES = 2**21  # of the server's answer; what a model says in it may have answer.MAX_ANSWER characters
COMPRESSED = {"gzip", "x-gzip", "deflate", "br", "zstd"}


def event_hooks(timeout, most=MAX_BYTES):
    """Hooks for a client: ask for no compression, and read an answer's body up to `most` bytes and `timeout` seconds.

    Then, and where it is compressed all the same, they raise Failure, which an SDK may wrap in an error of its own.
    """

    def ask_plainly(request):
        request.headers["Accept-Encoding"] = "identity"

    def bound(response):
        encodings = response.headers.get("content-encoding", "")
        if COMPRESSED & {each.strip().lower() for each in encodings.split(",")}:  # a few bytes could become gigabytes
            raise Failure("bad_answer", "the server's answer is compressed, which was not asked for")
        library = importlib.import_module(type(response).__module__.partition(".")[0])
        response.stream = bounded(library.SyncByteStream, response.stream, timeout, most)

    return {"request": [ask_plainly], "response": [bound]}


def bounded(base, stream, timeout, most):
    """`stream`, which yields bytes, as a `base` that raises Failure after `most` bytes and after `timeout` seconds."""
    ends = time.monotonic() + timeout

    class Bounded(base):
        def __iter__(self):
            left = most
            for part in stream:
                left -= len(part)
                if left < 0:
                    raise Failure("bad_answer", f"the server's answer has more than {most:,} bytes")
                if time.monotonic() > ends:
                    raise too_slow(timeout)
                yield part

        def close(self):
            stream.close()

    return Bounded()


def within(timeout, call):
    """What `call()` returns or raises; Failure if that takes more than `timeout` seconds.

    The call goes on in a thread that nobody waits for: a connection, or a head of an answer that drips, cannot be
    ended from outside; its body is, by the hooks.
    """
    results = queue.SimpleQueue()

    def work():
        try:
            results.put((call(), None))
        except BaseException as error:  # raised again below
            results.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = results.get(timeout=timeout)
    except queue.Empty:
        raise too_slow(timeout) from None
    if error is not None:
        raise error
    return result


def too_slow(timeout):
    return Failure("unavailable", f"no answer within {timeout:g} s")
