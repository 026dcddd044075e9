"""Batches: many requests in one file, answered within a day at half the price. Submitted, waited for, collected.

What is under way stands in a file beside annotations.jsonl, so that any later call goes on: a batch is noted before it
is submitted, under a label by which the provider finds it, and struck out when all its rows are written.
"""

import json
import tempfile
import time
import uuid
from collections import deque
from pathlib import Path

from tqdm import tqdm

from preprocess.annotation.answer import Failure, check_answer
from preprocess.annotation.asking import ATTEMPTS
from util import InputError, read_json, write_json

LABEL = "ief-annotate-"
EXPECTED = "what preprocess.annotate notes of its batches"


def file_of(out):
    """annotations.jsonl -> annotations.batches.json"""
    return Path(out).with_suffix(".batches.json")


class Batches:
    """`rows(jobs, may_begin)` yields the Annotation of each image as its batch is done.

    asker: an Asker of a GeminiBatch or OpenAIBatch. written: the rows in the file, to which the caller adds those that
    are yielded. at_once: batches under way at most. poll: seconds between two looks at them.
    """

    def __init__(self, asker, out, written, at_once, poll):
        self.provider, self.asker, self.path, self.written = asker.provider, asker, file_of(out), written
        self.at_once, self.poll = at_once, poll
        # [{"label", "job", "file", "after": the rows that were written before it, "images": {sha256: path}}]
        self.noted = read_batches(self.path, asker.common)
        self.waiting = deque()  # (path, sha256)
        self.without_answer = 0  # images of batches that came back without them
        self.failed_looks = 0  # in a row

    def rows(self, jobs, may_begin):
        """jobs: [(path, sha256)] of the images that have no row. No batch is begun once `may_begin()` is false."""
        self.find_interrupted()
        under_way = {sha256 for batch in self.noted for sha256 in batch["images"]}
        self.waiting.extend(job for job in jobs if job[1] not in under_way)
        if self.waiting and may_begin():  # whether key, model and settings do, before thousands are sent
            yield self.asker(*self.waiting.popleft())
        while True:
            while self.waiting and len(self.noted) < self.at_once and may_begin():
                if not (yield from self.submit()):
                    break
            if not self.noted:
                return
            over = [batch for batch in list(self.noted) if self.is_over(batch)]
            for batch in over:
                yield from self.collect(batch)
            if not over:
                time.sleep(self.poll)

    def find_interrupted(self):
        """Those whose submission was interrupted: the provider has them, or nobody has."""
        for batch in [batch for batch in self.noted if not batch["job"]]:
            batch["job"] = self.now(self.provider.find, batch["label"])
            if not batch["job"]:
                self.noted.remove(batch)
        self.note()

    def submit(self):
        """Send the images that wait as a batch, as many as it takes; yields rows of those that cannot be sent.

        Returns False where the server takes no further batch now.
        """
        images = {}
        with tempfile.NamedTemporaryFile(prefix=".batch-", suffix=".jsonl", dir=self.path.parent) as file:
            while self.waiting and len(images) < self.provider.most_requests:
                path, sha256 = self.waiting.popleft()
                try:
                    line = self.provider.line(sha256, self.asker.pictures(path, sha256), self.asker.prompt)
                except Failure as failure:
                    yield self.asker.row(path, sha256, lambda _, failure=failure: raised(failure))
                    continue
                data = json.dumps(line).encode("ascii") + b"\n"
                if images and file.tell() + len(data) > self.provider.most_bytes:
                    self.waiting.appendleft((path, sha256))
                    break
                images[sha256] = path
                file.write(data)
            file.flush()
            if not images:
                return True
            batch = {"label": LABEL + uuid.uuid4().hex, "job": "", "file": ""}
            batch |= {"after": len(self.written), "images": images}
            self.noted.append(batch)
            self.note()
            try:
                batch["job"], batch["file"] = self.provider.submit(file.name, batch["label"])
            except Failure as failure:
                # after other failures the server may have it: the next call finds out
                if failure.status != "rate_limit" or len(self.noted) == 1:
                    raise InputError(f"the batch is not taken: {failure}") from None
                self.put_back(batch)
                return False
        self.note()
        tqdm.write(f"batch {batch['job']}: {len(images):,} images")
        return True

    def put_back(self, batch):
        """Its images wait again, until another batch is done: the server takes no more at once."""
        self.noted.remove(batch)
        self.note()
        self.waiting.extendleft(reversed([(path, sha256) for sha256, path in batch["images"].items()]))
        self.at_once = max(1, len(self.noted))

    def is_over(self, batch):
        """Whether a batch is done. InputError where all of it has failed, by what every other one would meet."""
        state, reason = self.look(batch)
        if state == "full" and len(self.noted) > 1:
            self.put_back(batch)
        elif state in ("full", "failed"):
            self.noted.remove(batch)
            self.note()
            raise InputError(f"batch {batch['job']} has failed: {reason}")
        return state == "done"

    def collect(self, batch):
        """Yield the rows of a batch that is done, and strike it out."""
        have = {row.sha256 for row in self.written[batch["after"] :]}  # of a call that was interrupted here
        images = {sha256: path for sha256, path in batch["images"].items() if sha256 not in have}
        with tempfile.NamedTemporaryFile(prefix=".batch-", suffix=".jsonl", dir=self.path.parent) as file:
            for name in self.now(self.provider.results, batch["job"]):
                file.seek(0)
                file.truncate()
                self.now(self.provider.download, name, file)
                file.seek(0)
                for line in file:
                    sha256, outcome = self.outcome(line)
                    if sha256 in images:
                        yield self.asker.row(images.pop(sha256), sha256, lambda spent, got=outcome: answer(got, spent))
        self.without_answer += len(images)
        self.noted.remove(batch)
        self.note()
        self.provider.forget(batch["job"], batch["file"])

    def outcome(self, line):
        """(sha256, Reply or Failure) in a line of a batch's results; (None, None) for a line that is none."""
        try:
            value = json.loads(line)
            return self.provider.key(value), self.provider.reply(value)
        except Failure as failure:
            return self.provider.key(value), failure
        except InputError as error:  # of one request; one for all would have been met by the first image
            return self.provider.key(value), Failure("unavailable", str(error))
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            return None, None

    def look(self, batch):
        """(state, reason) as the provider gives them; InputError when ATTEMPTS looks in a row have failed."""
        try:
            found, self.failed_looks = self.provider.look(batch["job"]), 0
            return found
        except Failure as failure:
            self.failed_looks += 1
            if self.failed_looks == ATTEMPTS:
                raise to_go_on(failure) from None
            return "working", ""

    def now(self, function, *arguments):
        """What a request gives; InputError where it fails."""
        try:
            return function(*arguments)
        except Failure as failure:
            raise to_go_on(failure) from None

    def note(self):
        """Write what is under way; nothing if that is nothing."""
        if self.noted:
            write_json(self.path, {"asked": self.asker.common.asked, "batches": self.noted})
        else:
            self.path.unlink(missing_ok=True)


def to_go_on(failure):
    return InputError(f"{failure}; the same command goes on")


def raised(failure):
    raise failure


def answer(outcome, spent):
    """The checked Answer in a Reply; raises what it is if that is a Failure. Its tokens are counted."""
    spent.add(outcome)
    return raised(outcome) if isinstance(outcome, Failure) else check_answer(outcome.answer)


def read_batches(path, common):
    """The batches that are under way by the file, [] without one.

    InputError for a file that is damaged, or of batches that were asked of another model or by another prompt.
    """
    if not path.exists():
        return []
    found = read_json(path, dict, EXPECTED)
    batches, kinds = found.get("batches"), {"label": str, "job": str, "file": str, "after": int, "images": dict}
    if not isinstance(batches, list) or not all(
        isinstance(batch, dict) and all(isinstance(batch.get(name), kind) for name, kind in kinds.items())
        for batch in batches
    ):
        raise InputError(f"{path}: found something else, expected {EXPECTED}")
    if found.get("asked") != list(common.asked):
        raise InputError(
            f"{path}: batches of (provider, model, prompt) {found.get('asked')} are under way; this call has "
            f"{common.asked_in_words}. Collect them first, by the command that began them"
        )
    return batches
