"""Captions, text and emotion words of a folder of memes, by a vision-language model or by small local models.

    GEMINI_API_KEY=… python -m preprocess.annotate --images memes --out annotations.jsonl --provider gemini --model NAME
    python -m preprocess.annotate --images memes --out annotations.jsonl --provider openai --model NAME \\
        --base_url http://localhost:8000/v1
    python -m preprocess.annotate --images memes --out annotations.jsonl --provider local

gemini-batch and openai-batch ask the same in files of many requests, which are answered within a day at half the price.
On several machines each takes a shard of the images (--shard); preprocess.merge_annotations joins the files.

Each image is asked about once, and its row is appended at once: after Ctrl-C, or if the process is killed, the same
command goes on where it stopped.
"""

import functools
import hashlib
import json
import os
import shlex
import sys
import threading
from pathlib import Path

from preprocess.annotation.annotation_file import Annotation, AnnotationFile, last_rows, read_rows
from preprocess.annotation.answer import ANSWER_SCHEMA, PASSING, default_prompt
from preprocess.annotation.arguments import (
    AT_ONCE,
    BATCH,
    POLL,
    build_parser,
    check_arguments,
    make_provider,
    read_prompt,
    without_keys,
)
from preprocess.annotation.asking import Asker, Prices, Threads
from preprocess.annotation.batches import Batches
from preprocess.annotation.emotion_words import read_emotion_table, vocabulary
from preprocess.annotation.pictures import by_content, find_images, pictures_of
from preprocess.annotation.summary import dollars, summary, total_cost
from preprocess.annotation.without_captions import advice
from util import InputError, program, progress_bar

PAUSE = 2.0  # seconds before a request is repeated for the first time
GIVE_UP = 10  # images in a row without an answer
GRACE = 3.0  # seconds for what is under way at Ctrl-C or an error
NOT_FINISHED, INTERRUPTED = 3, 130  # exit codes
LOCAL = "Note: local is weaker than a vision-language model. It reads the text by OCR and writes no captions."


class Run:
    """One call on an open AnnotationFile: asks about what is left, counts, and knows when to stop."""

    def __init__(self, arguments, file, remarks=()):
        self.arguments, self.file = arguments, file
        self.remarks = remarks  # the provider's, for the user
        self.rows = list(file.rows)  # and then those of this call
        self.first_new = len(self.rows)
        self.cost = total_cost(self.rows)
        self.any_ok = any(row.status == "ok" for row in self.rows)
        self.done = self.failed = self.bad_answers = 0  # in this call
        self.unanswered = 0  # images in a row
        self.stopped = ""  # why, if not all was done

    @property
    def new_rows(self):
        return self.rows[self.first_new :]

    def go(self, jobs, asker, stop):
        """Append a row for each job (path, sha256); returns the exit code. InputError if there is no use in it."""
        threads = Threads(asker, min(self.arguments.workers, len(jobs)))
        with progress_bar(total=len(jobs), desc="asking about images", unit="img") as bar:
            try:
                for row in threads.each(jobs, self.may_begin_another):
                    self.take(row, bar)
                    self.check_use(row)
            except (KeyboardInterrupt, InputError) as error:
                stop.set()
                for row in threads.finished_within(GRACE):  # their answers are paid for
                    self.take(row, bar)
                if isinstance(error, InputError):
                    raise
                self.stopped = "by Ctrl-C"
                return INTERRUPTED
            finally:
                stop.set()
                threads.close()
        return NOT_FINISHED if self.stopped else 0

    def go_by_batches(self, jobs, batches):
        """The same by batches, those included that an earlier call began."""
        with progress_bar(total=len(jobs), desc="asking about images", unit="img") as bar:
            try:
                for row in batches.rows(jobs, self.may_begin_another):
                    self.take(row, bar)
            except KeyboardInterrupt:
                self.stopped = f"by Ctrl-C; what is under way is noted in {batches.path}"
                return INTERRUPTED
        if batches.without_answer and not self.stopped:
            self.stopped = f"as {batches.without_answer:,} images of ended batches got no answer"
        return NOT_FINISHED if self.stopped else 0

    def may_begin_another(self):
        limit = self.arguments.max_cost
        if limit is not None and self.cost >= limit:
            self.stopped = f"as --max_cost {limit:g} is reached: the rows in {self.file.path} cost {dollars(self.cost)}"
        return not self.stopped

    def take(self, row, bar):
        self.file.append(row)
        self.rows.append(row)
        self.cost += row.cost or 0
        self.done += row.status == "ok"
        self.failed += row.status != "ok"
        self.bad_answers += row.status == "bad_answer"
        if row.status != "unreadable_image":
            self.unanswered = self.unanswered + 1 if row.status in PASSING else 0
        cost = {} if self.arguments.price_input is None else {"cost": dollars(self.cost)}
        bar.set_postfix(done=self.done, failed=self.failed, **cost, refresh=False)
        bar.update()

    def check_use(self, row):
        """InputError if images get no answer any more, or if costs are limited and unknown."""
        if self.unanswered == GIVE_UP:
            raise InputError(f"the last {GIVE_UP} images got no answer ({row.status}): {row.error}")
        if self.bad_answers == GIVE_UP and not self.done and not self.any_ok:
            raise InputError(f"none of {GIVE_UP} answers could be used; the last one: {row.error}")
        if self.arguments.max_cost is not None and row.status == "ok" and row.cost is None:
            raise InputError("the server does not say how many tokens it read, so that --max_cost cannot be kept")


def left(images, rows, arguments):
    """[(path, sha256)] of the images to ask about, of `images` {sha256: path}."""
    last = last_rows(rows)
    if arguments.retry_failed:
        keys = [key for key in images if key in last and last[key].status != "ok"]
    else:
        keys = [key for key in images if key not in last]
    return [(images[key], key) for key in keys[: arguments.limit]]


def check_same(rows, common, arguments):
    """InputError if the file holds rows of another provider, model or prompt (with language and schema)."""
    others = dict.fromkeys(row.asked_in_words for row in rows if row.asked != common.asked)
    if others and not arguments.allow_mixed:
        raise InputError(
            f"{arguments.out} holds rows of {'; of '.join(others)}; this call has {common.asked_in_words}. Choose "
            "another --out, or add rows with --allow_mixed (images with a row are not asked again)"
        )


def identifier(prompt, language):
    """12 digits that change with the prompt, the language and the schema."""
    schema = json.dumps(ANSWER_SCHEMA, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256("\n".join((prompt, language, schema)).encode("utf-8")).hexdigest()[:12]


def print_plan(arguments, images, rows, prompt):
    """What --dry-run prints."""
    last = [row for sha256, row in last_rows(rows).items() if sha256 in images]
    ok = sum(row.status == "ok" for row in last)
    print(f"{len(images):,} different images: {ok:,} ok, {len(last) - ok:,} failed, {len(images) - len(last):,} left")
    print(f"this call would ask about {len(left(images, rows, arguments)):,}")
    if prompt:
        print(f"\nprompt:\n\n{prompt.strip()}\n\nschema of the answer:\n\n{json.dumps(ANSWER_SCHEMA, indent=2)}")


def print_summary(run, images, table, argv):
    arguments = run.arguments
    print("\n".join(summary(images, run.rows, run.new_rows, table)))
    if arguments.provider == "local":
        print(LOCAL, *run.remarks, sep="\n")
        ok = [row for sha256, row in last_rows(run.rows).items() if sha256 in images and row.status == "ok"]
        if ok and not any(row.captions for row in ok):
            print(advice(sum(bool(row.text.strip()) for row in ok), len(ok)))
    if run.stopped:
        print(f"stopped {run.stopped}")
    last = last_rows(run.rows)
    statuses = {last[sha256].status if sha256 in last else None for sha256 in images}
    same = [flag for flag in argv if flag != "--retry_failed"]
    if None in statuses:
        print(f"to go on: {command(same)}")
    if statuses - {None, "ok"}:
        print(f"to try the failed ones again: {command([*same, '--retry_failed'])}")
    if "ok" in statuses and arguments.shard:
        print("then, when all shards are done: python -m preprocess.merge_annotations FILES --images "
              f"{shlex.quote(str(arguments.images))} --out FILE")  # fmt: skip
    elif "ok" in statuses:
        folder, file = shlex.quote(str(arguments.images)), shlex.quote(str(arguments.out))
        print("then: python -m preprocess.build_community --records records.csv "
              f"--annotations {file} --images {folder} --out data/mine")  # fmt: skip


def command(argv):
    return shlex.join(["python", "-m", "preprocess.annotate", *argv])


def annotate(arguments, argv, provider, pause):
    """What `main` does; returns the exit code."""
    check_arguments(arguments)
    table = read_emotion_table(arguments.emotion_table)
    if arguments.provider == "local":
        prompt = ""  # it takes none
    else:
        prompt = (
            read_prompt(arguments.prompt) if arguments.prompt else default_prompt(arguments.language, vocabulary(table))
        )
    paths, outside = find_images(arguments.images)
    if provider is None and not arguments.dry_run:
        provider = make_provider(arguments)
    images = by_content(arguments.images, paths)
    print(f"{arguments.images}: {len(paths):,} images, {len(images):,} of them different")
    if arguments.shard:
        images = {sha256: path for sha256, path in images.items() if arguments.shard.has(sha256)}
        arguments.out = str(arguments.shard.file(arguments.out))
        print(f"shard {arguments.shard}: {len(images):,} of these, into {arguments.out}")
    if outside:
        print(f"passed over {len(outside):,} links that leave the folder, the first one {outside[0]}")
    common = Annotation(
        image="",
        sha256="",
        status="",
        provider=arguments.provider.removesuffix(BATCH),
        model=arguments.model or getattr(provider, "model", ""),
        language=arguments.language,
        prompt=identifier(prompt, arguments.language),
    )
    if arguments.dry_run:
        rows = read_rows(arguments.out)[0] if os.path.exists(arguments.out) else []
        if common.model:  # local's is known only when its packages are loaded
            check_same(rows, common, arguments)
        print_plan(arguments, images, rows, prompt)
        return 0
    with AnnotationFile(arguments.out) as file:
        if file.repaired:
            print(file.repaired)
        check_same(file.rows, common, arguments)
        run, stop = Run(arguments, file, getattr(provider, "remarks", ())), threading.Event()
        prices = None
        if arguments.price_input is not None:
            prices = Prices(arguments.price_input, arguments.price_output)
        pictures = functools.partial(pictures_of, max_frames=arguments.max_frames, max_side=arguments.max_side)
        asker = Asker(provider, prompt, common, Path(arguments.images), pictures, prices, pause, stop)
        try:
            jobs = left(images, file.rows, arguments)
            if not arguments.provider.endswith(BATCH):
                return run.go(jobs, asker, stop)
            at_once, poll = arguments.batches or AT_ONCE, arguments.poll or POLL
            return run.go_by_batches(jobs, Batches(asker, arguments.out, run.rows, at_once, poll))
        finally:
            print_summary(run, images, table, argv)


@program
def main(argv=None, provider=None, pause=PAUSE):
    """The program. `provider` replaces the one that the arguments name; `pause`: see annotation/asking.py."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(argv)
    try:
        code = annotate(arguments, argv, provider, pause)
    except (InputError, OSError) as error:
        sys.exit(without_keys(f"error: {error}"))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
