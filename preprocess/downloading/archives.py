"""Unpack .zip, .tar.gz and .tgz archives: no member leaves the folder, and all of them or none appear."""

import gzip
import os
import posixpath
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


def extract(archive, folder, max_bytes=64 * 2**30):
    """Unpack `archive` into the new (or empty) `folder`, which appears when everything is unpacked.

    Raises InputError, and leaves nothing behind, if the folder holds something already, if the archive is
    damaged, encrypted or unpacks to more than `max_bytes`, or if one of its members is absolute, leaves the
    folder (by its name or as a link), occurs twice, or is neither file, folder nor link.
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
        unpack(members(archive), temporary, archive, max_bytes)
        os.rename(temporary, folder)
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{archive} cannot be unpacked: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    """The member's relative path; InputError if it is absolute or has a part '..'."""
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise InputError(f"{archive}: the member {name!r} leaves the folder or has no valid name")
    return posixpath.normpath(name)


def create(path, member, archive):
    try:
        return open(path, "xb")
    except FileExistsError:
        raise InputError(f"{archive}: {member.name!r} occurs twice") from None


def zip_members(archive):
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind_bits = stat.S_IFMT(info.external_attr >> 16)
            if kind_bits == stat.S_IFLNK:
                with file.open(info) as source:
                    yield Member(info.orig_filename, "symlink", link=os.fsdecode(source.read(MAX_LINK)))
            elif kind_bits not in (0, stat.S_IFREG, stat.S_IFDIR):
                yield Member(info.orig_filename, "device or pipe")
            else:
                kind = "folder" if info.is_dir() else "file"
                yield Member(info.orig_filename, kind, open=partial(file.open, info))


def tar_members(archive):
    with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as file:
        for info in file:
            kind = TAR_KINDS.get(info.type, "device or pipe")
            yield Member(info.name, kind, open=partial(file.extractfile, info), link=info.linkname)
        while stream.read(CHUNK):  # gzip's checksum stands after what tarfile reads
            pass
