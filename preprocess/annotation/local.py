"""`local`: text by OCR and emotion words by a face model, on this machine; no network, no key, no captions."""

import difflib
import importlib.metadata
import json

from preprocess.annotation import local_faces
from preprocess.annotation.answer import Failure, Reply
from preprocess.annotation.local_text import DETECTION, RECOGNITION, TextReader

SAME_LINE = 0.8  # difflib's ratio; below it, lines of two frames are different texts


class Local:
    """A provider for `annotate`. `remarks`: sentences for the user about what this one can and cannot read."""

    name, secret = "local", None

    def __init__(self, language="en", text=True, faces=None):
        """`language` makes no difference: English and Chinese are read alike. Raises InputError: a missing package.

        text, faces: what is read; `faces` None: where the face model is installed.
        """
        if faces:
            local_faces.check_installed()
        self.texts = TextReader() if text else None
        self.model = "no OCR, "
        if text:
            self.model = f"{DETECTION} + {RECOGNITION} (rapidocr {importlib.metadata.version('rapidocr')}), "
        if faces is not False and local_faces.is_installed():
            self.faces = local_faces.FaceReader()
            self.model += local_faces.model_name()
            self.remarks = [local_faces.REMARK]
        else:
            self.faces = None
            self.model += "no face model"
            self.remarks = [f"No face model: emotions stay empty. To have one: {local_faces.INSTALL}"]

    def answer(self, pictures, prompt=""):
        """A Reply for JPEG bytes: of a still, or of an animation's frames. The prompt is not read.

        Raises Failure("unreadable_image") if a picture cannot be decoded.
        """
        frames = [decoded(picture) for picture in pictures]
        text = " ".join(different_lines([self.texts.lines(frame) for frame in frames])) if self.texts else ""
        emotions = max((self.faces.words(frame) for frame in frames), key=len, default=[]) if self.faces else []
        return Reply(json.dumps({"captions": [], "text": text, "emotions": emotions}, ensure_ascii=False), None, None)


def decoded(picture):
    """JPEG bytes -> (H, W, 3) uint8, blue first."""
    import cv2
    import numpy as np

    # OpenCV refuses an empty buffer by an exception of its own
    frame = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) if picture else None
    if frame is None:
        raise Failure("unreadable_image", "the picture cannot be decoded")
    return frame


def different_lines(frames):
    """The lines of all frames, without those of a later frame that an earlier one has, give or take a misreading."""
    shown = []
    for lines in frames:
        known = [plain(line) for line in shown]
        shown += [line for line in lines if not any(are_same(plain(line), other) for other in known)]
    return shown


def plain(line):
    return "".join(line.split()).casefold()


def are_same(one, other):
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    return matcher.real_quick_ratio() >= SAME_LINE and matcher.ratio() >= SAME_LINE
