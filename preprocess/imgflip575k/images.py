"""Draw many memes into files, by all cores; what is there already is kept."""

import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
from pathlib import Path
from typing import NamedTuple

import cv2

from dataloaders.image_file import BadImage, ImageError, ImageFile, read_file
from preprocess.imgflip575k.drawing import Pen, draw_meme, resized
from util import InputError, not_written, progress_bar

FEW = 100  # memes that are drawn sooner than a further process starts
REPORT = 25  # memes between two reports of a process


class Job(NamedTuple):
    """One meme to draw: the file of its template, the file to write, both texts in ASCII."""

    template: str
    path: str
    upper: str
    lower: str


def read_picture(path):
    """(H, W, 3) uint8, blue first, on white; InputError (ImageError) if the file cannot be read as an image."""
    try:
        return ImageFile(read_file(path)).first(reduction=1, colour=True)
    except BadImage as error:
        raise ImageError(f"{path}: {error}") from error


def draw_missing(jobs, size, quality, workers):
    """Draw the memes whose file is absent or empty, in `workers` processes; returns how many that were.

    size: pixels of the longer side; quality: of the JPEGs. A file appears only when it is whole, so that an
    interrupted call can be repeated. Raises InputError or OSError, the first that a process meets.
    """
    there = set()
    for folder in {os.path.dirname(job.path) for job in jobs}:
        os.makedirs(folder, exist_ok=True)
        there |= {entry.path for entry in os.scandir(folder) if entry.stat().st_size}
    missing = sorted(job for job in jobs if job.path not in there)  # by template: each is read and resized once
    with progress_bar(
        total=len(jobs), initial=len(jobs) - len(missing), desc="drawing the memes", unit="meme"
    ) as progress:
        workers = max(1, min(workers, len(missing) // FEW))
        if workers == 1:
            _draw(missing, size, quality, progress.update)
        else:
            _draw_in_processes(missing, size, quality, workers, progress.update)
    return len(missing)


def _draw(jobs, size, quality, report):
    pen, template, picture, done = Pen(), None, None, 0
    for job in jobs:
        if job.template != template:
            template, picture = job.template, resized(read_picture(job.template), size)
        drawn = draw_meme(pen, picture, job.upper, job.lower)
        encoded = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        # not util.replaced_atomically: to wait for the disk would take longer than to draw. After a power cut a
        # file may be empty; it is drawn again then
        path = Path(job.path)
        temporary = path.with_name(f".{path.name}.partial")
        try:
            temporary.write_bytes(encoded)
            os.replace(temporary, path)
        except OSError as error:
            raise not_written(path, error, temporary) from error
        done += 1
        if done == REPORT:
            report(done)
            done = 0
    report(done)


def _draw_in_processes(jobs, size, quality, workers, report):
    """Each process has every `workers`-th job and a pipe: numbers are progress, an exception ends all.

    Processes, not threads: drawing holds Python's lock too often for more than a few cores.
    """
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    try:
        # The processes inherit that SIGINT is blocked: Ctrl-C reaches this process alone, which ends the others.
        # The tracker is started with the first of them otherwise, and unblocks it
        multiprocessing.resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for number in range(workers):
                receiver, sender = context.Pipe(duplex=False)
                part = jobs[number::workers]
                process = context.Process(target=_work, args=(part, size, quality, sender), daemon=True)
                process.start()
                sender.close()
                processes.append(process)
                pipes.append(receiver)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        while pipes:
            for pipe in multiprocessing.connection.wait(pipes):
                try:
                    found = pipe.recv()
                except EOFError:
                    pipes.remove(pipe)
                    continue
                if isinstance(found, Exception):
                    raise found
                report(found)
        for process in processes:
            process.join()
            if process.exitcode:
                raise OSError(f"a process that draws memes ended with code {process.exitcode}; call it again")
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(jobs, size, quality, sender):
    cv2.setNumThreads(1)
    try:
        _draw(jobs, size, quality, sender.send)
    except BrokenPipeError:  # the main process was killed
        pass
    except (InputError, OSError) as error:
        sender.send(error)
