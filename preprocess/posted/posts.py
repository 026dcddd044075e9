"""MemeCap's JSON files and a file of the texts on the images -> checked values; all bad entries are in one message."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from dataloaders.cells import BadCell, ImageFolder
from dataloaders.csv_rows import shown
from preprocess.annotation.pictures import SUFFIXES
from preprocess.building.published_entries import Entries, captions_of, fields, identifier, text_of
from preprocess.building.published_files import read_json
from util import InputError

FILES = ("memes-trainval.json", "memes-test.json")
IMAGE_FOLDERS = ("images", "memes", "data/images", "data/memes", "")
POST_ID = re.compile("[A-Za-z0-9_]{1,100}")


class Post(NamedTuple):
    """One entry. meanings: what it means, by each annotator. image: relative to the image folder; None: not there."""

    place: str
    post_id: str
    title: str
    captions: tuple[str, ...]
    meanings: tuple[str, ...]
    image: str | None


class Posts(NamedTuple):
    """What was read. read: {file: how many entries}. texts: {post_id: text on the image}, None without a file."""

    posts: list[Post]
    read: dict[str, int]
    images: Path
    files: list[Path]
    texts: dict[str, str] | None


def read_posts(source, images=None, ocr=None):
    """The Posts of a folder with MemeCap's files, or of a clone that has them in data/.

    images: the folder of the pictures; by default the first of IMAGE_FOLDERS that there is below `source`. ocr: a file
    with a line {"post_id", "ocr"} for each post. Raises InputError: no such file or folder, bad entries of all files,
    no picture at all.
    """
    source = Path(source)
    places = [[source / name, source / "data" / name] for name in FILES]
    files = [path for place in places for path in [next(filter(Path.is_file, place), None)] if path]
    if not files:
        raise InputError(f"{source}: found neither {' nor '.join(FILES)} in it or in its folder data (--source)")
    if images is None:
        images = next(folder for name in IMAGE_FOLDERS if (folder := source / name).is_dir())
    elif not Path(images).is_dir():
        raise InputError(f"{images}: found no such folder, expected the folder of the pictures (--images)")
    entries, folder, known = Entries(), ImageFolder(images), {}
    posts, read = [], {}
    for path in files:
        value = read_json(path)
        if not isinstance(value, list) or not value:
            raise InputError(f"{path}: found {shown(json.dumps(value))}, expected a list of posts")
        read[path.name] = len(value)
        posts += [_post(entries, f"{path}, [{number}]", entry, folder, known) for number, entry in enumerate(value)]
    texts = _read_texts(entries, Path(ocr)) if ocr else None
    entries.raise_if_any()
    if not any(post.image for post in posts):
        raise InputError(
            f"{images}: found no picture of any post, expected files such as {_names(posts[0])} (--images)"
        )
    if texts is not None and not any(post.post_id in texts for post in posts):
        raise InputError(f"{ocr}: found no post of {', '.join(read)}, expected their post_id (--ocr)")
    return Posts(posts, read, Path(images), files, texts)


def _post(entries, where, entry, folder, known):
    """The Post of an entry; of no use if anything in it is bad, which `entries` collects."""
    entry = entries.checked(where, fields("post_id", "title", "img_captions", "meme_captions"), entry)
    if entry is None:
        return None
    post_id = entries.checked(f"{where}, 'post_id'", _post_id, entry["post_id"])
    first = known.setdefault(post_id, where)
    if post_id and first != where:
        entries.problems.append(f"{where}, 'post_id': found {post_id!r} again, expected each once; it is in {first}")
    return Post(
        place=where,
        post_id=post_id,
        title=" ".join((entries.checked(f"{where}, 'title'", text_of, entry["title"]) or "").split()),
        captions=entries.checked(f"{where}, 'img_captions'", _texts, entry["img_captions"]),
        meanings=entries.checked(f"{where}, 'meme_captions'", _texts, entry["meme_captions"]),
        image=entries.checked(f"{where}, 'img_fname'", _finder(folder, post_id), entry.get("img_fname")),
    )


def _post_id(value):
    post_id = identifier(value)
    if not POST_ID.fullmatch(post_id):
        raise BadCell(shown(post_id), "at most 100 letters, digits and _")
    return post_id


def _texts(value):
    if not isinstance(value, list):
        raise BadCell(shown(json.dumps(value)), "a list of texts")
    return tuple(" ".join(text_of(text).split()) for text in captions_of(value))


def _finder(folder, post_id):
    """A parser of `img_fname` (it may be absent): the picture's path in the ImageFolder, None where there is none."""

    def parse(value):
        names = [text_of(value)] if value is not None else []
        names = [folder.parse_path(name) for name in names if name] + [f"memes_{post_id}.png"]
        for name in names:
            for candidate in dict.fromkeys((name, *(str(Path(name).with_suffix(suffix)) for suffix in SUFFIXES))):
                path = folder.parse_path(candidate)
                if Path(folder.root, path).is_file():
                    return path
        return None

    return parse


def _names(post):
    return f"memes_{post.post_id}.png or memes_{post.post_id}.jpg"


def _read_texts(entries, path):
    """{post_id: text} of the lines of a file."""
    texts, lines = {}, {}
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            found = shown(line.decode("utf-8", "replace").strip())
            entries.problems.append(f'{where}: found {found} ({error}), expected {{"post_id": …, "ocr": …}}')
            continue
        if (value := entries.checked(where, fields("post_id", "ocr"), value)) is None:
            continue
        post_id = entries.checked(f"{where}, 'post_id'", _post_id, value["post_id"])
        first = lines.setdefault(post_id, number)
        if post_id and first != number:
            entries.problems.append(f"{where}: found {post_id!r} again, expected it once; it is in line {first}")
        texts[post_id] = entries.checked(f"{where}, 'ocr'", text_of, value["ocr"])
    return texts
