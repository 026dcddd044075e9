"""Fetch CLIP's published weights, or a file or archive of your own, with progress, resume and checksum.

python -m preprocess.download clip              # ViT-B/32; or: clip ViT-L/14
python -m preprocess.download https://host/memes.zip --out data --extract
python -m preprocess.download s3://bucket/memes.tar.gz --out data --extract --sha256 SUM
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

from modules.backbones.published import PUBLISHED, WEIGHTS_FOLDER
from preprocess.downloading.archives import archive_stem, extract
from preprocess.downloading.sources import Changed, Dropped, file_name, open_source, without_secrets
from util import InputError, Parser, program, progress_bar, sha256_of, write_json

DEFAULT = "ViT-B/32"
ATTEMPTS = 5  # in a row without a new byte


def fetch(source, target, sha256=None, endpoint_url=None, pause=1.0):
    """Fetch an http(s):// or s3:// `source` to the file `target`; returns `target` as a Path.

    What was received of an interrupted download is kept beside the target and continued by the next call, if
    the source still holds the same version. `target` appears only when it is whole and, where `sha256`
    (hexadecimal) is given, right. A target that is there already is kept, unless its checksum is another one.
    `endpoint_url` names an S3 server other than Amazon's. After a dropped connection the next attempt follows
    in `pause` seconds, then in twice as many, and so on.
    Raises InputError: an address that cannot be read or reached, a wrong checksum.
    """
    target = Path(target)
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise InputError(f"a SHA-256 has 64 hexadecimal digits, not {sha256!r}")
    sha256 = sha256 and sha256.lower()
    download = Download(source, target, sha256, endpoint_url)
    if not is_there(target, sha256):
        target.parent.mkdir(parents=True, exist_ok=True)
        print(f"{download.shown} -> {target}")
        download.receive_all(pause)
        download.finish()
    return target


def is_there(target, sha256):
    if target.is_dir():
        raise InputError(f"{target} is a folder; a file of that name is to be fetched")
    if not target.exists():
        return False
    if sha256 is None:
        print(f"{target} is there already and was kept; remove it to fetch it anew")
        return True
    found = sha256_of(target)
    if found == sha256:
        print(f"{target} is there already; its SHA-256 is right")
        return True
    print(f"{target} has the SHA-256 {found}, expected {sha256}: it is replaced when the right one is here")
    return False


class Download:
    """A file on its way: two files beside the target hold what was received and of which version it is."""

    def __init__(self, source, target, sha256, endpoint_url):
        self.source, self.target, self.sha256, self.endpoint_url = source, target, sha256, endpoint_url
        self.shown = without_secrets(source)
        self.data = target.with_name(f".{target.name}.partial")
        self.note = target.with_name(f".{target.name}.version.partial")

    def size(self):
        return self.data.stat().st_size if self.data.exists() else 0

    def version(self):
        """(tag, total) of what was begun, see `sources.Reply`; Nones if not known."""
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8"))
            return noted["tag"], noted["total"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):  # none, or damaged
            return None, None

    def remove(self):
        self.data.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def place(self):
        return f"put it at {self.target.absolute()}" + (f" (SHA-256 {self.sha256})" if self.sha256 else "")

    def receive_all(self, pause):
        """Receive until complete, over as many connections as it takes, while new bytes keep coming."""
        begun_before, most, failures = self.size() > 0, self.size(), 0
        while True:
            try:
                self.receive()
                if not (begun_before and self.sha256 and sha256_of(self.data) != self.sha256):
                    return
                print("the continued download has a wrong SHA-256: fetching all of it anew")
                begun_before = False
                self.remove()
            except Changed:
                print("the file has changed at its source: fetching all of it anew")
                self.remove()
            except Dropped as error:
                failures = 1 if self.size() > most else failures + 1
                most = max(most, self.size())
                if failures == ATTEMPTS:
                    raise InputError(
                        f"{self.shown} could not be fetched: {error}. The {self.size():,} bytes received "
                        "so far are kept for the next call. Where there is no network, fetch the file "
                        f"elsewhere and {self.place()}"
                    ) from None
                wait = pause * 2 ** (failures - 1)
                print(f"{error}: next attempt in {wait:.0f} s")
                time.sleep(wait)
            except InputError as error:
                raise InputError(f"{error}. If you have the file, {self.place()}") from None

    def receive(self):
        """Append what one connection delivers; returns when the file is complete."""
        size, (tag, total) = self.size(), self.version()
        if size and size == total:
            return
        # with neither, nothing would notice a beginning and an end of two versions
        start = size if tag or self.sha256 else 0
        with open_source(self.source, start, tag, self.endpoint_url) as reply:
            if reply.start == 0:
                self.remove()
                write_json(self.note, {"tag": reply.tag, "total": reply.total})
            self.append(reply)
        if reply.total is not None and self.size() < reply.total:
            raise Dropped("the connection was closed early")

    def append(self, reply):
        bar = progress_bar(total=reply.total, initial=reply.start, unit="B", unit_scale=True, unit_divisor=1024)
        with open(self.data, "ab") as file, bar:
            for chunk in reply.chunks:
                try:
                    file.write(chunk)
                    file.flush()
                except OSError as error:
                    raise InputError(
                        f"{self.data}: cannot be written ({error.strerror}); what is there is kept, and the same "
                        "command goes on from it"
                    ) from error
                bar.update(len(chunk))

    def finish(self):
        """Check what was received and give it the target's name."""
        size, found = self.size(), self.sha256 and sha256_of(self.data)
        if found != self.sha256:
            self.remove()
            raise InputError(
                f"{self.shown}: the {size:,} bytes received have the SHA-256 {found}, expected "
                f"{self.sha256}; they were removed. If you have the right file, {self.place()}"
            )
        with open(self.data, "r+b") as file:  # to be written: Windows syncs no other
            os.fsync(file.fileno())
        os.replace(self.data, self.target)
        self.remove()


def encoding(name):
    try:
        b"a".decode(name)
    except LookupError:
        raise argparse.ArgumentTypeError(f"Python knows no encoding {name!r}") from None
    return name


def to_arguments(argv):
    parser = Parser(
        prog="python -m preprocess.download",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", help="clip (OpenAI's weights), https://…, http://… or s3://bucket/key")
    add("name", nargs="?", help=f"with clip: which one, {', '.join(PUBLISHED)} (default: {DEFAULT})")
    add("--out", type=Path, metavar="DIR", help="folder for the file (for clip: modules)")
    add("--sha256", metavar="SUM", help="the file's checksum; another one is an error")
    add("--extract", action="store_true", help="unpack .zip, .tar.gz or .tgz into a folder beside it")
    add("--max_extracted_gb", type=int, default=64, metavar="GB", help="unpack at most this (default: 64)")
    add("--encoding", type=encoding, metavar="NAME", help="of an archive's names where they are not UTF-8: gbk,"
        " shift_jis, euc_kr, …")  # fmt: skip
    add("--endpoint_url", metavar="URL", help="an S3 server other than Amazon's")
    args = parser.parse_args(argv)
    if args.source == "clip" and (args.sha256 or args.extract or args.endpoint_url):
        parser.error("clip names a published file: --sha256, --extract and --endpoint_url do not go with it")
    if args.source == "clip" and args.name not in (None, *PUBLISHED):
        parser.error(f"clip {args.name}: OpenAI's CLIPs with a vision transformer are {', '.join(PUBLISHED)}")
    if args.source != "clip" and args.name is not None:
        parser.error(f"{args.name}: a second word goes with clip only")
    if args.encoding and not args.extract:
        parser.error("--encoding goes with --extract only")
    if args.source != "clip" and args.out is None:
        parser.error("--out DIR is needed: the folder for the file")
    if args.endpoint_url and not args.source.lower().startswith("s3://"):
        parser.error("--endpoint_url goes with an s3:// source only")
    return args


@program
def main(argv=None):
    args = to_arguments(argv)
    try:
        if args.source == "clip":
            published = PUBLISHED[args.name or DEFAULT]
            fetch(published.address, (args.out or WEIGHTS_FOLDER) / published.file, published.sha256)
            return
        target = args.out / file_name(args.source)
        folder = args.out / archive_stem(target) if args.extract else None
        fetch(args.source, target, args.sha256, args.endpoint_url)
        if folder:
            notes = extract(target, folder, args.max_extracted_gb * 2**30, args.encoding)
            print(*notes, f"{target} was unpacked into {folder}", sep="\n")
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; what was received is kept, and the same command goes on from there")


if __name__ == "__main__":
    main()
