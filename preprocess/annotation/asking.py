"""Asking a provider about one image: retries, waiting, costs; and many images at once by a few threads."""

import queue
import random
import sys
import threading
import time
from dataclasses import dataclass, replace

from tqdm import tqdm

from preprocess.annotation.answer import PASSING, UNWRITABLE, Answer, Failure, check_answer, without_key
from util import InputError, sha256_of

ATTEMPTS = 6  # for one image
MAX_BACKOFF = 60  # seconds
MAX_RETRY_AFTER = 300  # seconds; who asks for more (a daily quota) is not waited for
MAX_MESSAGE = 300  # characters


class Stopped(Exception):
    """The run ends: this image is left for another one."""


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens."""

    input: float
    output: float


def redacted(text, secret):
    """The text in one line, at most MAX_MESSAGE characters, with the key replaced."""
    text = UNWRITABLE.sub("", text)  # it may quote an answer
    line = " ".join(without_key(text, secret).split())
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 3] + "..."


def masked(answer, secret):
    """The Answer without the key, which some servers echo; its notes are shortened as well."""
    captions, emotions = (tuple(without_key(text, secret) for text in texts) for texts in answer[::2])
    found = Answer(captions, without_key(answer.text, secret), emotions, answer.notes)
    notes = [redacted(note, secret) for note in answer.notes] + ["masked the key"] * (found != answer)
    return found._replace(notes=tuple(notes))


class Asker:
    """Makes the row of an image: `asker(path, sha256)` -> Annotation. Thread-safe.

    `common`: what all rows share, an Annotation without an image. `path` is relative to `folder`;
    `pictures_of(folder / path)` gives what is sent. The first wait after a passing failure is about `pause` seconds,
    each further one twice as long. After a rate limit all threads wait. Raises Stopped once `stop` (a
    threading.Event) is set, InputError for what spoils every request.
    """

    def __init__(self, provider, prompt, common, folder, pictures_of, prices, pause, stop):
        self.provider, self.prompt, self.common, self.prices = provider, prompt, common, prices
        self.folder, self.pictures_of = folder, pictures_of
        self.pause, self.stop = pause, stop
        self.free_at = 0.0  # time.monotonic() from which requests may be sent
        self.said_why = False  # that it waits

    def __call__(self, path, sha256):
        return self.row(path, sha256, lambda spent: self.ask(self.pictures(path, sha256), spent))

    def pictures(self, path, sha256):
        """What is sent of an image; Failure if it cannot be read, or is another one by now."""
        pictures = self.pictures_of(self.folder / path)
        if sha256_of(self.folder / path) != sha256:
            raise Failure("unreadable_image", "the file has changed since this call began")
        return pictures

    def row(self, path, sha256, answer_of):
        """The row of an image, of the Answer that `answer_of(spent)` gives or of the Failure that it raises."""
        row = replace(self.common, image=path, sha256=sha256)
        spent, secret = Spent(), self.provider.secret
        try:
            answer = answer_of(spent)
            row = replace(row, status="ok", **masked(answer, secret)._asdict())
        except Failure as failure:
            row = replace(row, status=failure.status, error=redacted(str(failure), secret))
        except Stopped:
            raise
        except InputError as error:
            raise InputError(redacted(str(error), secret)) from None
        except Exception as error:
            raise InputError(redacted(f"{path}: {type(error).__name__}: {error}", secret)) from error
        cost = self.prices and spent.cost(self.prices)
        return replace(row, input_tokens=spent.input, output_tokens=spent.output, cost=cost, seconds=spent.seconds)

    def ask(self, pictures, spent):
        """The checked Answer for an image; Failure when it will not come."""
        failures, bad_answers = 0, 0
        while True:
            self.wait()
            started = time.monotonic()
            try:
                reply = self.provider.answer(pictures, self.prompt)
                spent.add(reply)
                return check_answer(reply.answer, needs_captions=self.provider.name != "local")
            except Failure as failure:
                spent.add(failure)
                if failure.status == "bad_answer" and bad_answers == 0:
                    bad_answers += 1
                elif failure.status in PASSING and failures < ATTEMPTS - 1:
                    if (failure.retry_after or 0) > MAX_RETRY_AFTER:
                        raise
                    self.back_off(failure, 2**failures)
                    failures += 1
                else:
                    raise
            finally:
                spent.seconds = round(time.monotonic() - started, 2)

    def back_off(self, failure, factor):
        seconds = min(self.pause * factor, MAX_BACKOFF) * random.uniform(0.75, 1.25)
        seconds = max(seconds, failure.retry_after or 0)
        if not self.said_why:
            self.said_why = True
            reason = redacted(str(failure), self.provider.secret)
            tqdm.write(f"{reason}; the next attempt is in {seconds:.0f} s, up to {ATTEMPTS} an image", file=sys.stderr)
        if failure.status == "rate_limit":
            self.free_at = max(self.free_at, time.monotonic() + seconds)
        else:
            self.stop.wait(seconds)

    def wait(self):
        """Wait while there is a rate limit, and a little longer, so that not all threads go on at the same moment."""
        while (seconds := self.free_at - time.monotonic()) > 0 and not self.stop.is_set():
            self.stop.wait(seconds + random.uniform(0, self.pause / 4))
        if self.stop.is_set():
            raise Stopped


class Spent:
    """Tokens of all requests for one image (None: nobody said), and the seconds that the last one took."""

    def __init__(self):
        self.input = self.output = None
        self.seconds = None

    def add(self, reply):
        """Count the tokens of a Reply or a Failure."""
        if reply.input_tokens is not None:
            self.input = (self.input or 0) + reply.input_tokens
        if reply.output_tokens is not None:
            self.output = (self.output or 0) + reply.output_tokens

    def cost(self, prices):
        """US dollars, or None if no tokens are known."""
        if self.input is None and self.output is None:
            return None
        return round(((self.input or 0) * prices.input + (self.output or 0) * prices.output) / 1e6, 8)


class Threads:
    """A few threads which call a function; as many calls are under way at most.

    They are daemons: a request that hangs does not keep the program from ending.
    """

    def __init__(self, function, count):
        self.function, self.count = function, count
        self.jobs, self.results = queue.SimpleQueue(), queue.SimpleQueue()
        self.under_way = 0
        for _ in range(count):
            threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while (job := self.jobs.get()) is not None:
            try:
                self.results.put((self.function(*job), None))
            except BaseException as error:  # raised again by `take`
                self.results.put((None, error))

    def each(self, jobs, may_start):
        """Yield function(*job) as they are done; no further job is begun once `may_start()` is false."""
        for job in jobs:
            if not may_start():
                break
            self.jobs.put(job)
            self.under_way += 1
            if self.under_way == self.count:
                yield self.take()
        while self.under_way:
            yield self.take()

    def take(self, timeout=None):
        """The next result; raises what the function raised, and queue.Empty after `timeout` seconds."""
        result, error = self.results.get(timeout=timeout)
        self.under_way -= 1
        if error:
            raise error
        return result

    def finished_within(self, seconds):
        """Yield what is done in so many seconds of what is under way; errors are passed over."""
        end = time.monotonic() + seconds
        while self.under_way and (left := end - time.monotonic()) > 0:
            try:
                yield self.take(left)
            except queue.Empty:
                return
            except Exception:  # stopped, or of no interest any more
                continue

    def close(self):
        for _ in range(self.count):
            self.jobs.put(None)
