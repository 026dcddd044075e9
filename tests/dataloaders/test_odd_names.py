"""Names and words as other systems write them: decomposed letters, files that are no images, missing values."""

import unicodedata

import pytest

from dataloaders.image_file import BadImage, ImageFile
from dataloaders.meme_records import read_splits
from preprocess.annotation.answer import check_answer
from preprocess.annotation.pictures import find_images
from preprocess.building.inputs import records_of_csv
from preprocess.building.published import images_of_ids
from util import InputError

HEADER = "image_id,image,topic_id,query,captions,emotions,text\n"
JPEG = b"\xff\xd8\xff\xe0" + bytes(20)
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Café/Ümläut é.jpg") for form in ("NFC", "NFD"))


def written(folder, *rows, name="train"):
    path = folder / f"{name}.csv"
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def placed(folder, name, content=JPEG):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("in_csv", "on_disk"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_file_is_found_whose_name_is_in_another_unicode_form(tmp_path, in_csv, on_disk):
    """macOS decomposes letters with accents, other systems and editors compose them."""
    placed(tmp_path / "images", on_disk)
    path = written(tmp_path, f"m1,{in_csv},t1,q,c,,", f"m1,{on_disk},t2,q,c,,", "m2,é.jpg,t2,q,c,,")
    splits, _ = read_splits({"train": path}, tmp_path / "images")
    assert [meme.image for meme in splits["train"].memes] == [on_disk, "é.jpg"]
    records = tmp_path / "records.csv"
    records.write_text(f"image,topic_id,query\n{in_csv},t1,q\n", encoding="utf-8")
    assert [record.image for record in records_of_csv(records, tmp_path / "images")[0]] == [on_disk]


def test_a_file_that_is_there_as_it_is_written_stays(tmp_path):
    for name in (COMPOSED, DECOMPOSED):
        placed(tmp_path / "images", name)
    path = written(tmp_path, f"m1,{COMPOSED},t1,q,c,,", f"m2,{DECOMPOSED},t1,q,c,,")
    memes = read_splits({"train": path}, tmp_path / "images")[0]["train"].memes
    assert [meme.image for meme in memes] == [COMPOSED, DECOMPOSED]


def test_a_name_in_another_form_does_not_lead_out_of_the_folder(tmp_path):
    (tmp_path / "images").mkdir()
    placed(tmp_path, "secret.jpg")
    (tmp_path / "images" / unicodedata.normalize("NFD", "é.jpg")).symlink_to(tmp_path / "secret.jpg")
    path = written(tmp_path, f"m1,{unicodedata.normalize('NFC', 'é.jpg')},t1,q,c,,")
    with pytest.raises(InputError, match="expected a file inside"):
        read_splits({"train": path}, tmp_path / "images")


def test_an_image_of_an_id_in_another_form_is_found(tmp_path):
    image_id, name = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é.jpg")
    placed(tmp_path, name)
    assert images_of_ids(tmp_path, {image_id})[0] == {image_id: name}


@pytest.mark.parametrize("name", [".DS_Store", "._a.jpg", "Thumbs.db", "THUMBS.DB", "desktop.ini", "__MACOSX/b.jpg"])
def test_what_a_system_leaves_in_a_folder_is_no_image(tmp_path, name):
    """Whatever is in it: some hold a preview that begins as a picture does."""
    placed(tmp_path, name)
    placed(tmp_path, "a.jpg")
    assert find_images(tmp_path) == (["a.jpg"], [])


def test_a_companion_of_macos_is_named_as_that():
    with pytest.raises(BadImage, match=r"macOS.*\._"):
        ImageFile(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(50))


INVISIBLE = [
    "\u200b",
    "\u200e\u200f",
    "\ufeff",
    "\u2060\u2061",
    "\u3164",
    "\u2800",
    "\u00ad",
    "\u180e",
    "\x07",
    "\ufe0f",
]


@pytest.mark.parametrize("text", INVISIBLE)
@pytest.mark.parametrize("column", ["image_id", "image", "topic_id", "query"])
def test_what_cannot_be_seen_names_nothing(tmp_path, column, text):
    cells = {"image_id": "m1", "image": "a.jpg", "topic_id": "t1", "query": "q", "captions": "c"} | {column: text}
    path = written(tmp_path, ",".join([*cells.values(), "", ""]))
    with pytest.raises(InputError, match=f"line 2, column '{column}'") as raised:
        read_splits({"train": path}, tmp_path)
    assert "''" not in str(raised.value)  # it is shown as what it is


@pytest.mark.parametrize("text", INVISIBLE)
def test_captions_and_emotions_that_cannot_be_seen_are_none(tmp_path, text):
    path = written(tmp_path, f"m1,a.jpg,t1,q,{text},{text},")
    with pytest.raises(InputError, match="column 'captions': found no caption"):
        read_splits({"train": path}, tmp_path)
    [meme] = read_splits({"train": path}, tmp_path, read_captions=False)[0]["train"].memes
    assert meme.captions == meme.emotions == ()
    path = written(tmp_path, f'm1,a.jpg,t1,q,c,"[""{text}""]",')
    with pytest.raises(InputError, match="column 'emotions': found"):
        read_splits({"train": path}, tmp_path)


@pytest.mark.parametrize("text", ["é", "我", "😀", "a\u200b", "\u200ba", "👨\u200d👩", "٣", "­x"])
def test_whatever_can_be_seen_is_a_name(tmp_path, text):
    [meme] = read_splits({"train": written(tmp_path, f"{text},a.jpg,t1,{text},{text},{text},")}, tmp_path)[0][
        "train"
    ].memes
    assert meme.image_id == text and meme.captions == (text,)


def test_missing_values_as_pandas_writes_them_are_told(tmp_path):
    """DataFrame.astype(str) makes a word of what is missing: nobody means that every tenth meme is captioned "nan"."""
    train = written(
        tmp_path,
        "m1,a.jpg,t1,q,nan,nan,nan",
        'm2,b.jpg,t1,q,"[""a cat"", ""NaN""]","{""person1"": ""nan""}",',
        "m3,c.jpg,t2,nan,<NA>,happy,None",
        "m4,d.jpg,nan,q,grandma eats naan,none,nanny",
    )
    val = written(tmp_path, "m1,a.jpg,t1,q,nan,nan,nan", "m5,e.jpg,t2,fine,c,sad,", name="val")
    _, notes = read_splits({"train": train, "val": val}, tmp_path)
    [note] = [note for note in notes if "pandas" in note]
    for part in ("captions 3", "emotions 2", "text 2", "query 1", "topic_id 1", str(train), "empty cell"):
        assert part in note, part
    assert "val.csv" not in note or "m1" not in note  # memes are counted once
    clean = written(tmp_path, "m1,a.jpg,t1,q,c,none,")
    assert read_splits({"train": clean}, tmp_path)[1] == []


def test_missing_values_in_a_table_of_topics_are_told(tmp_path):
    records = tmp_path / "records.csv"
    records.write_text("image,topic_id,query\na.jpg,t1,nan\nb.jpg,nan,fine\nc.jpg,t3,fine\n")
    [note] = records_of_csv(records, tmp_path)[1]
    assert "query 1" in note and "topic_id 1" in note and "pandas" in note


def test_an_answer_s_captions_of_nothing_visible_are_left_out():
    assert check_answer('{"captions": ["\\u200b", "a cat"], "text": "", "emotions": {}}').captions == ("a cat",)
