"""The text on pictures and the expressions of faces, by `annotate`'s small local models; what is read is kept."""

import functools
import os
import threading

from preprocess.annotate import PAUSE, Run, identifier, left
from preprocess.annotation.annotation_file import Annotation, AnnotationFile, last_rows
from preprocess.annotation.arguments import build_parser
from preprocess.annotation.asking import Asker
from preprocess.annotation.local import Local
from preprocess.annotation.pictures import pictures_of
from util import InputError


def read_pictures(folder, images, file, text, faces):
    """{sha256: Annotation} of `images` {sha256: path in `folder`}: with texts, with emotions of faces, or both.

    A row for each is appended to `file`, in the form of annotations.jsonl, as soon as it is read: the next call goes
    on there. Raises InputError where a package is missing, or if other models wrote the rows.
    """
    flags = ["--images", str(folder), "--out", str(file), "--provider", "local", "--workers", str(os.cpu_count() or 1)]
    arguments = build_parser().parse_args(flags)
    with AnnotationFile(file) as rows:
        jobs = left(images, rows.rows, arguments)
        if not jobs:
            return last_rows(rows.rows)
        provider = Local(text=text, faces=faces)
        if others := {row.model for row in rows.rows} - {provider.model}:
            raise InputError(
                f"{file}: was written by {'; '.join(sorted(others))}; this call has {provider.model}. Remove the file"
                " to have all pictures read anew"
            )
        common = Annotation(
            "", "", "", provider="local", model=provider.model, language="en", prompt=identifier("", "en")
        )
        pictures = functools.partial(pictures_of, max_frames=arguments.max_frames, max_side=arguments.max_side)
        run, stop = Run(arguments, rows), threading.Event()
        if run.go(jobs, Asker(provider, "", common, folder, pictures, None, PAUSE, stop), stop):
            raise KeyboardInterrupt
        return last_rows(run.rows)
