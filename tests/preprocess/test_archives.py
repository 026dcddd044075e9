"""Archives made here, good ones and one of each bad kind."""

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib

import pytest

from preprocess.downloading.archives import archive_stem, extract
from util import InputError


def make_zip(path, members):
    """members: (name, bytes, unix mode or None) in this order."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode or 0) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def make_tar(path, members):
    """members: (name, bytes) or (name, tar type, link target) in this order."""
    with tarfile.open(path, "w:gz") as archive:
        for name, *rest in members:
            info = tarfile.TarInfo(name)
            if len(rest) == 1:
                info.size = len(rest[0])
                archive.addfile(info, io.BytesIO(rest[0]))
            else:
                info.type, info.linkname = rest
                archive.addfile(info)
    return path


def tree(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def refused(archive, words, **options):
    """The archive is refused with these words, and nothing of it stays anywhere beside it."""
    before = tree(archive.parent)
    with pytest.raises(InputError, match=words) as error:
        extract(archive, archive.parent / "out", **options)
    assert str(archive) in str(error.value)
    assert tree(archive.parent) == before


LINK = stat.S_IFLNK | 0o777


@pytest.mark.parametrize("name", ["memes.zip", "memes.tar.gz", "memes.tgz", "memes.TGZ"])
def test_files_arrive_as_they_are(tmp_path, name):
    files = {"train.csv": b"image_id\n", "images/a/表情 😀.jpg": os.urandom(3_000_000), "images/empty.jpg": b""}
    if name.endswith("zip"):
        archive = make_zip(tmp_path / name, [("images/", b"", None)] + [(*item, None) for item in files.items()])
    else:
        archive = make_tar(tmp_path / name, [("./images", tarfile.DIRTYPE, "")] + list(files.items()))
    extract(archive, tmp_path / "deep" / "out")
    out = tmp_path / "deep" / "out"
    assert {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()} == files
    assert os.listdir(tmp_path / "deep") == ["out"]
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(out.parent.stat().st_mode)


def test_nothing_is_overwritten(tmp_path):
    archive = make_zip(tmp_path / "memes.zip", [("a", b"new", None)])
    (tmp_path / "out").mkdir()
    extract(archive, tmp_path / "out")  # an empty folder is as good as none
    (tmp_path / "out" / "a").write_text("edited")
    with pytest.raises(InputError, match="is there already"):
        extract(archive, tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == "edited"
    (tmp_path / "file").write_text("a file")
    (tmp_path / "link").symlink_to("nowhere")
    for taken in ("file", "link"):
        with pytest.raises(InputError, match="is there already"):
            extract(archive, tmp_path / taken)


def test_what_a_killed_process_left_is_no_obstacle(tmp_path):
    archive = make_zip(tmp_path / "memes.zip", [("a", b"new", None)])
    (tmp_path / ".out.unpacked.partial").mkdir()
    (tmp_path / ".out.unpacked.partial" / "a").write_text("half")
    extract(archive, tmp_path / "out")
    assert tree(tmp_path) == {"memes.zip", "out", "out/a"}


NAMES = ["/etc/x", "../x", "a/../../x", "a/..", "//x"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leaves_the_folder(tmp_path, name):
    refused(make_zip(tmp_path / "a.zip", [("good", b"", None), (name, b"bad", None)]), "leaves the folder")
    refused(make_tar(tmp_path / "a.tgz", [("good", b""), (name, b"bad")]), "leaves the folder")
    refused(make_tar(tmp_path / "b.tgz", [(name, tarfile.SYMTYPE, "good")]), "leaves the folder")


@pytest.mark.parametrize("name", ["..\\x", "\\x", "\\\\host\\x", "a\\..\\..\\x", "a/..\\../x", "C:\\x", "c:/x", "c:x"])
def test_a_backslash_is_a_separator_and_gets_the_same_checks(tmp_path, name):
    refused(make_zip(tmp_path / "a.zip", [("good", b"", None), (name, b"", None)]), "leaves the folder or has no valid")
    refused(make_tar(tmp_path / "a.tgz", [("good", b""), (name, b"bad")]), "leaves the folder or has no valid")


def test_an_archive_with_backslashes(tmp_path):
    """As PowerShell 5.1 writes it."""
    members = [("images\\", b""), ("images\\a\\x.jpg", b"meme"), ("images/a/y.jpg", b"other"), ("train.csv", b"")]
    extract(make_zip(tmp_path / "a.zip", [(*member, None) for member in members]), tmp_path / "zip")
    extract(make_tar(tmp_path / "a.tgz", members[1:]), tmp_path / "tar")
    for out in (tmp_path / "zip", tmp_path / "tar"):
        assert tree(out) == {"images", "images/a", "images/a/x.jpg", "images/a/y.jpg", "train.csv"}
        assert (out / "images/a/x.jpg").read_bytes() == b"meme"
    refused(make_zip(tmp_path / "b.zip", [("a\\x", b"1", None), ("a/x", b"2", None)]), "occurs twice")
    refused(make_tar(tmp_path / "b.tgz", [("link", tarfile.SYMTYPE, "..\\..\\x")]), "outside the folder")


class RawName(zipfile.ZipInfo):
    """A member whose name is written as these bytes, without the flag that says UTF-8."""

    raw = b""

    def _encodeFilenameFlags(self):
        return self.raw, self.flag_bits


def make_raw_zip(path, members, extra=None):
    """members: {name as bytes: content}; extra: {name: the extra field}."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, (raw, content) in enumerate(members.items()):
            info = RawName(f"{number}")
            info.raw, info.extra = raw, (extra or {}).get(raw, b"")
            archive.writestr(info, content)
    return path


def make_raw_tar(path, members, encoding):
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT, encoding=encoding) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


NAMES_IN = {
    "gbk": ["图片/表情 乗.jpg", "联通.jpg", "十儁.jpg"],  # the second one is valid UTF-8, too; the third ends in \x5c
    "shift_jis": ["画像/ソ表.jpg", "能.png"],  # with \x5c as the second byte of a character
    "euc_kr": ["사진/고양이.jpg"],
    "cp437": ["café.jpg"],
}


@pytest.mark.parametrize("encoding", NAMES_IN)
def test_names_in_other_encodings(tmp_path, encoding):
    files = {name: name.encode() for name in NAMES_IN[encoding]} | {"train.csv": b"plain"}
    archive = make_raw_zip(tmp_path / "a.zip", {name.encode(encoding): content for name, content in files.items()})
    refused(archive, rf"names that are not UTF-8.*{encoding} gives '{NAMES_IN[encoding][0]}'.*--encoding")
    refused(archive, "not valid ascii", encoding="ascii")
    notes = extract(archive, tmp_path / "zip", encoding=encoding)
    assert notes == [f"names in {archive} were read as {encoding}"]
    assert {
        p.relative_to(tmp_path / "zip").as_posix(): p.read_bytes() for p in (tmp_path / "zip").rglob("*.*")
    } == files
    archive = make_raw_tar(tmp_path / "a.tgz", files, encoding)
    refused(archive, rf"names that are not UTF-8.*{encoding} gives '{NAMES_IN[encoding][0]}'.*--encoding")
    assert extract(archive, tmp_path / "tar", encoding=encoding) == [f"names in {archive} were read as {encoding}"]
    assert tree(tmp_path / "tar") == tree(tmp_path / "zip")


@pytest.mark.parametrize("encoding", [None, "gbk"])
def test_utf_8_that_is_not_marked(tmp_path, encoding):
    """As macOS's Archive Utility and old zip programs write it."""
    name = "表情 😀 é.jpg"
    archive = make_raw_zip(tmp_path / "a.zip", {name.encode(): b"meme", b"b.jpg": b"", b"c/": b""})
    assert extract(archive, tmp_path / "out", encoding=encoding) == [f"names in {archive} were read as UTF-8"]
    assert tree(tmp_path / "out") == {name, "b.jpg", "c"}


def test_where_all_is_marked_or_ascii_nothing_is_said(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("表情.jpg", b"1", None), ("b.jpg", b"2", None)])
    assert extract(archive, tmp_path / "out", encoding="gbk") == []
    assert extract(make_tar(tmp_path / "a.tgz", [("表情.jpg", b"1")]), tmp_path / "tar", encoding="gbk") == []


def test_the_second_name_in_unicode_counts(tmp_path):
    """Info-ZIP's extra field, if it belongs to the name."""
    raw, other = "乗.jpg".encode("gbk"), "画.jpg".encode("gbk")

    def field(name, of):
        content = b"\1" + zlib.crc32(of).to_bytes(4, "little") + name.encode()
        return struct.pack("<HH", 0x7075, len(content)) + content

    archive = make_raw_zip(tmp_path / "a.zip", {raw: b"1"}, {raw: b"\x99\x99\2\0ab" + field("乗.jpg", raw)})
    assert extract(archive, tmp_path / "zip") == [] and tree(tmp_path / "zip") == {"乗.jpg"}
    refused(make_raw_zip(tmp_path / "b.zip", {raw: b"1"}, {raw: field("../x", raw)}), "leaves the folder")
    refused(make_raw_zip(tmp_path / "c.zip", {raw: b"1"}, {raw: field("乗.jpg", other)}), "not UTF-8")
    refused(make_raw_zip(tmp_path / "d.zip", {raw: b"1"}, {raw: b"\x75\x70\xff\xff\1"}), "not UTF-8|cannot be unpacked")


def test_decoded_names_are_checked(tmp_path):
    refused(make_raw_zip(tmp_path / "a.zip", {b"+AC4ALgAv-x\xff": b""}), "not valid utf-7", encoding="utf-7")
    refused(make_raw_zip(tmp_path / "a.zip", {"乗".encode("gbk") + b"/../../x": b""}), "leaves the", encoding="gbk")
    link = RawName("link")
    link.raw, link.external_attr = "链乗".encode("gbk"), LINK << 16
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr(link, "图.jpg".encode("gbk"))
    extract(tmp_path / "b.zip", tmp_path / "out", encoding="gbk")
    assert os.readlink(tmp_path / "out" / "链乗") == "图.jpg"


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "a/../../x", "../memes/x", "../out/good"])
def test_a_link_that_leaves_the_folder(tmp_path, target):
    refused(make_zip(tmp_path / "a.zip", [("good", b"", None), ("link", target, LINK)]), "outside the folder")
    refused(make_tar(tmp_path / "a.tgz", [("good", b""), ("link", tarfile.SYMTYPE, target)]), "outside the folder")
    refused(make_tar(tmp_path / "b.tgz", [("link", tarfile.LNKTYPE, target)]), "leaves the folder|no file of")


def test_links_that_leave_it_together(tmp_path):
    """a/b/up points to the top; c, spelt inside, then goes one further up."""
    links = [("a/b/c", tarfile.SYMTYPE, "up/.."), ("a/b/up", tarfile.SYMTYPE, "../..")]
    for members in (links, links[::-1]):
        refused(make_tar(tmp_path / "a.tgz", members), "outside the folder")


def test_nothing_is_written_through_a_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for link in ("a/link", "link"):
        for bad in ([b"bad"], [tarfile.SYMTYPE, "x"]):
            members = [(link, tarfile.SYMTYPE, str(outside)), (f"{link}/bad", *bad)]
            refused(make_tar(tmp_path / "a.tgz", members), "outside the folder")
    members = [("in/x", b""), ("link", tarfile.SYMTYPE, "in"), ("link/y", b"bad")]
    refused(make_tar(tmp_path / "a.tgz", members), "cannot be unpacked")
    members = [("in/x", b""), ("link", tarfile.SYMTYPE, "in"), ("link/y", tarfile.SYMTYPE, "x")]
    refused(make_tar(tmp_path / "a.tgz", members), "behind another link")
    members = [("in/x", b""), ("link", tarfile.SYMTYPE, "in"), ("y", tarfile.LNKTYPE, "link/x")]
    refused(make_tar(tmp_path / "a.tgz", members), "no file of the archive")


def test_links_inside_the_folder_work(tmp_path):
    members = [("b/alias", tarfile.SYMTYPE, "../a/file"), ("dir", tarfile.SYMTYPE, "a")]
    members += [("a/file", b"meme"), ("same", tarfile.LNKTYPE, "a/file"), ("dangling", tarfile.SYMTYPE, "none")]
    extract(make_tar(tmp_path / "a.tgz", members), tmp_path / "tar")
    extract(make_zip(tmp_path / "a.zip", [("alias", "file", LINK), ("file", b"meme", None)]), tmp_path / "zip")
    for path in ("tar/b/alias", "tar/dir/file", "tar/same", "zip/alias"):
        assert (tmp_path / path).read_bytes() == b"meme"
    assert os.path.islink(tmp_path / "tar" / "dangling")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes(tmp_path, kind):
    refused(make_tar(tmp_path / "a.tgz", [("good", b""), ("null", kind, "")]), "'null' is a device or pipe")
    mode = {tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK, tarfile.FIFOTYPE: stat.S_IFIFO}[kind]
    refused(make_zip(tmp_path / "a.zip", [("null", b"", mode | 0o600)]), "'null' is a device or pipe")


def test_a_member_that_occurs_twice(tmp_path):
    refused(make_tar(tmp_path / "a.tgz", [("a", b"1"), ("./a", b"2")]), "'./a' occurs twice")
    refused(make_zip(tmp_path / "a.zip", [("a", b"1", None), ("a//b", b"2", None)]), "cannot be unpacked")
    refused(make_tar(tmp_path / "b.tgz", [("a", b"1"), ("a", tarfile.SYMTYPE, "b")]), "cannot be unpacked")


def test_a_bomb_stops_at_the_bound(tmp_path):
    bomb = make_zip(tmp_path / "a.zip", [("a", bytes(5_000_000), None), ("b", bytes(5_000_000), None)])
    assert bomb.stat().st_size < 20_000
    refused(bomb, "more than the 9,999,999 bytes", max_bytes=9_999_999)
    refused(make_tar(tmp_path / "a.tgz", [("a", bytes(10_000_000))]), "more than", max_bytes=9_999_999)
    extract(bomb, tmp_path / "out", max_bytes=10_000_000)


def test_a_bomb_that_lies_about_its_size(tmp_path):
    content = bytearray(make_zip(tmp_path / "a.zip", [("a", bytes(5_000_000), None)]).read_bytes())
    honest = (5_000_000).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content.replace(honest, (10).to_bytes(4, "little")))
    refused(tmp_path / "a.zip", "cannot be unpacked|more than", max_bytes=1_000_000)


def test_damaged_archives(tmp_path):
    whole = make_zip(tmp_path / "a.zip", [("a", os.urandom(50_000), None)]).read_bytes()
    for content in (b"", b"no archive", whole[:30_000], whole[:20_000] + b"x" + whole[20_001:]):
        (tmp_path / "a.zip").write_bytes(content)
        refused(tmp_path / "a.zip", "cannot be unpacked")
    (tmp_path / "a.zip").unlink()
    whole = make_tar(tmp_path / "a.tgz", [("a", os.urandom(50_000))]).read_bytes()
    for content in (b"", b"no archive", gzip.compress(b"no tar" * 200), whole[:30_000], whole[:-8] + bytes(8)):
        (tmp_path / "a.tgz").write_bytes(content)
        refused(tmp_path / "a.tgz", "cannot be unpacked")


def test_an_encrypted_zip(tmp_path):
    content = bytearray(make_zip(tmp_path / "a.zip", [("a", b"secret", None)]).read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the "encrypted" bit of both headers
        content[content.index(mark) + flags] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", "encrypted")


def test_other_kinds_of_archives(tmp_path):
    assert [archive_stem(name) for name in ("a/b.tar.gz", "b.TGZ", "b.c.zip")] == ["b", "b", "b.c"]
    for name in ("a.rar", "zip", ".zip", "..zip", "...tgz", "a.tar"):
        with pytest.raises(InputError, match="ends with .zip, .tar.gz, .tgz"):
            extract(tmp_path / name, tmp_path / "out")
