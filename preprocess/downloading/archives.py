"""Unpack .zip, .tar.gz and .tgz archives: no member leaves the folder, and all of them or none appear."""

import gzip
import os
import posixpath
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

from util import InputError

SUFFIXES = (".zip", ".tar.gz", ".tgz")
CHUNK = 1 << 20
# What zipfile and tarfile raise for damaged and encrypted archives, and the disk when it is full
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    struct.error,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
)
MAX_LINK = 4096  # bytes in a path, on Linux
GUESSES = ("gbk", "big5", "shift_jis", "euc_kr", "cp437")  # shown where names are not UTF-8
UNICODE_PATH = 0x7075  # Info-ZIP's extra field: a member's name in UTF-8, with the checksum of its other name
DRIVE = re.compile("[A-Za-z]:")
TAR_KINDS = {
    **dict.fromkeys((tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE), "file"),
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
}


class Member(NamedTuple):
    name: str
    kind: str  # file, folder, symlink, hardlink, or what else it is
    open: object = None  # opens a file's bytes
    link: str = ""  # where a link points to


def archive_stem(path):
    """The name of an archive without its suffix; InputError if the suffix is none of `SUFFIXES`."""
    name = Path(path).name
    for suffix in SUFFIXES:
        stem = name[: -len(suffix)]
        if name.lower().endswith(suffix) and stem.strip("."):
            return stem
    raise InputError(f"{path}: cannot unpack this; an archive's name ends with {', '.join(SUFFIXES)}")


def extract(archive, folder, max_bytes=64 * 2**30, encoding=None):
    """Unpack `archive` into the new (or empty) `folder`, which appears when everything is unpacked.

    Names are in UTF-8 if they are marked so, or if they all are valid in it, else in `encoding`; `\\` in them separates
    as `/` does. Returns sentences for the user. Raises InputError, and leaves nothing behind, if the folder holds
    something already, if the archive is damaged, encrypted or unpacks to more than `max_bytes`, if names are in no
    known encoding, or if one of the members is absolute, leaves the folder (by its name or as a link), occurs twice,
    or is neither file, folder nor link.
    """
    archive, folder = Path(archive), Path(folder)
    archive_stem(archive)  # refuses other kinds
    members = zip_members if archive.name.lower().endswith(".zip") else tar_members
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise InputError(f"{folder} is there already and nothing in it is overwritten: remove it to unpack {archive}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.unpacked.partial")
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed process left
    try:
        temporary.mkdir()
        names = Names(archive, encoding)
        unpack(members(archive, names), temporary, archive, max_bytes)
        os.rename(temporary, folder)
        return names.notes()
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{archive} cannot be unpacked: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class Names:
    """How the names of an archive are read: `decoded(raw)`, a text from the bytes that nothing says the encoding of."""

    def __init__(self, archive, encoding):
        self.archive, self.encoding = archive, encoding
        self.used = set()  # encodings of names that are not ASCII

    def decoded(self, raw, may_be_utf_8=True):
        """InputError if `raw` is valid neither in UTF-8, where it may be that, nor in the encoding."""
        encoding = "UTF-8" if may_be_utf_8 and is_valid(raw, "utf-8") else self.encoding
        if raw.isascii():
            return raw.decode("ascii")
        if encoding is None:
            guesses = ", ".join(f"{each} gives {raw.decode(each)!r}" for each in GUESSES if is_valid(raw, each))
            raise InputError(
                f"{self.archive} has names that are not UTF-8, such as {raw!r}: {guesses}; say which by --encoding"
            )
        if not is_valid(raw, encoding):
            raise InputError(f"{self.archive}: the name {raw!r} is not valid {encoding}; choose another --encoding")
        self.used.add(encoding)
        return raw.decode(encoding)

    def notes(self):
        return [f"names in {self.archive} were read as {' and '.join(sorted(self.used))}"] if self.used else []


def is_valid(raw, encoding):
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def unpack(members, folder, archive, max_bytes):
    """Write the members into `folder`: links last, so that no bytes are written through a link."""
    room, hardlinks, symlinks = max_bytes, [], []
    for member in members:
        path = folder / checked_name(member.name, archive)
        if member.kind == "folder":
            path.mkdir(parents=True, exist_ok=True)
        elif member.kind == "file":
            path.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, create(path, member, archive) as file:
                while block := source.read(CHUNK):
                    room -= len(block)
                    if room < 0:
                        raise InputError(f"{archive} unpacks to more than the {max_bytes:,} bytes which are allowed")
                    file.write(block)
        elif member.kind == "hardlink":
            hardlinks.append((path, member))
        elif member.kind == "symlink":
            symlinks.append((path, member))
        else:
            raise InputError(
                f"{archive}: {member.name!r} is a {member.kind}; only files, folders and links are unpacked"
            )
    for path, member in hardlinks:
        target = folder / checked_name(member.link, archive)
        if not target.is_file():
            raise InputError(
                f"{archive}: {member.name!r} is a link to {member.link!r}, which is no file of the archive"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(target, path)
    make_symlinks(symlinks, folder, archive)


def make_symlinks(symlinks, folder, archive):
    root = Path(os.path.realpath(folder))
    for path, member in symlinks:
        inside = path.parent.relative_to(folder)
        if Path(os.path.realpath(path.parent)) != root / inside:
            raise InputError(f"{archive}: {member.name!r} lies behind another link of the archive")
        written = posixpath.normpath(posixpath.join(inside.as_posix(), member.link))
        if written.startswith("/") or written.split("/")[0] == ".." or "\0" in member.link:
            raise outside(member, archive)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(member.link, path)
    for path, member in symlinks:  # when all are there: a link can lead out through others
        if not Path(os.path.realpath(path)).is_relative_to(root):
            raise outside(member, archive)


def outside(member, archive):
    return InputError(f"{archive}: {member.name!r} is a link to {member.link!r}, outside the folder")


def checked_name(name, archive):
    """The member's relative path, `\\` as `/`; InputError if it is absolute or has a part '..'."""
    path = slashed(name)
    if not path or path.startswith("/") or DRIVE.match(path) or "\0" in path or ".." in path.split("/"):
        raise InputError(f"{archive}: the member {name!r} leaves the folder or has no valid name")
    return posixpath.normpath(path)


def slashed(name):
    """A name with `/` for `\\`, which some programs of Windows write."""
    return name.replace("\\", "/")


def create(path, member, archive):
    try:
        return open(path, "xb")
    except FileExistsError:
        raise InputError(f"{archive}: {member.name!r} occurs twice") from None


def zip_members(archive, names):
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        unmarked = [raw for info in members if (raw := unmarked_name(info)) is not None]
        utf_8 = all(is_valid(raw, "utf-8") for raw in unmarked)  # short names can be valid by chance
        for info in members:
            raw = unmarked_name(info)
            name = info_zip_name(info) or (info.orig_filename if raw is None else names.decoded(raw, utf_8))
            kind_bits = stat.S_IFMT(info.external_attr >> 16)
            if kind_bits == stat.S_IFLNK:
                with file.open(info) as source:
                    yield Member(name, "symlink", link=slashed(names.decoded(source.read(MAX_LINK), utf_8)))
            elif kind_bits not in (0, stat.S_IFREG, stat.S_IFDIR):
                yield Member(name, "device or pipe")
            else:
                kind = "folder" if slashed(name).endswith("/") else "file"
                yield Member(name, kind, open=partial(file.open, info))


def unmarked_name(info):
    """The bytes of a member's name; None if the archive says that they are UTF-8, in a flag or beside it."""
    if info.flag_bits & 0x800 or info_zip_name(info):
        return None
    return info.orig_filename.encode("cp437")  # as zipfile decoded it


def info_zip_name(info):
    """The name in Info-ZIP's extra field; None without one, or if it belongs to another name."""
    rest = info.extra
    while len(rest) >= 4:
        kind, size = struct.unpack("<HH", rest[:4])
        content, rest = rest[4 : 4 + size], rest[4 + size :]
        own = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
        if kind == UNICODE_PATH and len(content) == size and content[1:5] == zlib.crc32(own).to_bytes(4, "little"):
            return content[5:].decode("utf-8")
    return None


def tar_members(archive, names):
    with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:", encoding="utf-8") as file:
        utf_8 = names.encoding is None or all(is_valid(raw, "utf-8") for info in file for raw in tar_names(info))
        for info in file:
            kind = TAR_KINDS.get(info.type, "device or pipe")
            name, link = (
                raw.decode("utf-8") if utf_8 and is_valid(raw, "utf-8") else names.decoded(raw, utf_8)
                for raw in tar_names(info)
            )
            link = slashed(link) if kind == "symlink" else link
            yield Member(name, kind, open=partial(file.extractfile, info), link=link)
        while stream.read(CHUNK):  # gzip's checksum stands after what tarfile reads
            pass


def tar_names(info):
    """The bytes of a member's name and of its link's, as tarfile, told UTF-8, decoded them."""
    return info.name.encode("utf-8", "surrogateescape"), info.linkname.encode("utf-8", "surrogateescape")
