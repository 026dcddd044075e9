"""NumPy files from elsewhere: what they take is in proportion to their size, whatever their headers say."""

import io
import math
import tracemalloc
import zipfile

import numpy as np
import pytest

import metrics
from evaluation.query_record import QueryRecord
from metrics import Relevance
from util import InputError


def header(dtype, shape):
    """The beginning of an .npy file, whatever may follow."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def packed(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def zeros(dtype, *shape):
    return header(dtype, shape) + bytes(np.dtype(dtype).itemsize * math.prod(shape))


SHAPE = header("<i8", (2,)) + np.array([10**6, 10**6]).tobytes()
ONE = zeros("<i8", 1)


def refused_cheaply(load, path, match):
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=match) as raised:
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(raised.value)
    assert peak < 2**24, f"{peak / 2**20:.0f} MiB for a file of {path.stat().st_size / 2**10:.0f} KiB"


@pytest.fixture(scope="module")
def bomb():
    return zeros("<i8", 2**24)  # 128 MiB, of which deflate leaves 130 KiB


def test_a_relevance_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path, bomb):
    path = packed(tmp_path / "relevance.npz", query=bomb, meme=ONE, shape=SHAPE)
    assert path.stat().st_size < 2**18
    refused_cheaply(Relevance.load, path, r"134,2.. ?.* bytes.*np\.savez")


def test_a_record_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path, bomb):
    path = packed(tmp_path / "test_queries.npz", **{f"ranks.{name}": bomb for name in "abc"})
    refused_cheaply(lambda path: QueryRecord.load(path.parent), path, "bytes")


@pytest.mark.parametrize(
    ("member", "found"),
    [
        (header("<i8", (10**12,)), r"shape \(1000000000000,\)"),
        (header("<i8", (2**62, 4)), "by its header"),  # 2**67 bytes, which is 0 in 64 bits
        (header("<U100000000", (2,)), "by its header"),
        (header("|S0", (10**12,)), "by its header"),
        (header("<i8", (1,)), "by its header"),  # nothing follows
        (b"not an array", "magic"),
    ],
)
def test_an_array_that_is_not_what_its_header_says_is_refused(tmp_path, member, found):
    refused_cheaply(Relevance.load, packed(tmp_path / "relevance.npz", query=member, meme=ONE, shape=SHAPE), found)
    path = packed(tmp_path / "test_queries.npz", topic_ids=member)
    refused_cheaply(lambda path: QueryRecord.load(path.parent), path, found)


@pytest.mark.parametrize("dtype", ["<f4", "|u1", "|S0", "<U0", "<U100000000"])
@pytest.mark.parametrize("shape", [(10**12, 1), (2**62, 4), (2**32, 2**32), (1, 2**63), (10**9, 10**9)])
def test_a_matrix_that_is_not_what_its_header_says_is_refused(tmp_path, dtype, shape):
    path = tmp_path / "matrix.npy"
    path.write_bytes(header(dtype, shape) + bytes(64))
    refused_cheaply(Relevance.load, path, "cannot be read|take no bytes")
    with pytest.raises(InputError, match="matrix.npy"):
        metrics.load_array(path)


def test_what_is_not_asked_for_is_not_read(tmp_path, bomb):
    path = packed(tmp_path / "relevance.npz", query=ONE, meme=ONE, shape=SHAPE, more=bomb)
    assert Relevance.load(path).query.tolist() == [0]


def test_a_large_compressed_relevance_is_read_as_before(tmp_path):
    """Its arrays are 20 times as large as the file."""
    query, meme = np.divmod(np.arange(10**6), 1000)
    np.savez_compressed(tmp_path / "relevance.npz", query=query, meme=meme, shape=[1000, 1000])
    loaded = Relevance.load(tmp_path / "relevance.npz")
    assert (loaded.query == query).all() and (loaded.meme == meme).all()
