"""croissant.json: a community's folder in the format Croissant 1.1 (http://mlcommons.org/croissant/1.1), as a dict."""

from preprocess.describing.questions import QUESTIONS

VERSION = "http://mlcommons.org/croissant/1.1"
RESPONSIBLE = "http://mlcommons.org/croissant/RAI/1.0"
CARDINALITY = "http://www.wikidata.org/entity/Q4049983"
SPLIT_KINDS = {"train": "cr:TrainingSplit", "val": "cr:ValidationSplit", "test": "cr:TestSplit"}
CROISSANT_WORDS = (
    *("annotation", "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "excludes", "extract"),
    *("field", "fileObject", "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath"),
    *("key", "md5", "parentField", "path", "readLines", "recordSet", "references", "regex", "repeated", "replace"),
    *("samplingRate", "sdVersion", "separator", "source", "subField", "transform", "unArchive", "value"),
)
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "conformsTo": "dct:conformsTo",
    **{word: f"cr:{word}" for word in CROISSANT_WORDS},
    "data": {"@id": "cr:data", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
}
MEANINGS = {  # of the columns of a split's CSV
    "image_id": "Identifies the meme. The same meme may be in several topics.",
    "image": "The image file, relative to the folder of the images.",
    "topic_id": "Identifies the topic, a thread of the community.",
    "query": "The topic's text. The memes of the topic are the right answers to it.",
    "captions": "Texts that describe the meme: a JSON list.",
    "emotions": "One word for each person with a readable expression: a JSON list or object.",
    "text": "The words on the image.",
}
IMAGE_COLUMNS = {  # of images.csv: (type, meaning)
    "image": ("sc:Text", "The image file, relative to the folder of the images."),
    "sha256": ("sc:Text", "SHA-256 of the file's bytes."),
    "phash": ("sc:Text", "Perceptual hash of the picture (ImageHash's pHash, 64 bits), hexadecimal."),
    "width": ("sc:Integer", "Width in pixels, as the image is shown."),
    "height": ("sc:Integer", "Height in pixels, as the image is shown."),
}
MIME = {kind: f"image/{kind.lower()}" for kind in ("JPEG", "PNG", "GIF", "WebP", "BMP", "AVIF")}


def description(report):
    """A sentence or two on what a community's report counts."""
    total = report["total"]
    splits = ", ".join(f"{part['records']:,} in {split}" for split, part in report["splits"].items())
    return (
        f"Memes as answers to queries: {total['records']:,} records ({splits}), each of which says that one of"
        f" {total['memes']:,} memes was posted in one of {total['topics']:,} topics. A topic's text is the query; a"
        " meme has captions, the words on it, and a word for the emotion of each person, as far as they are known."
    )


def croissant(report, files, columns, images_count, with_images, answers, command):
    """The content of croissant.json.

    report: of measuring.survey. files: {name of a CSV in the folder: (SHA-256, bytes)}. columns: of the splits' CSVs.
    images_count: rows of images.csv. with_images: whether the folder has the pictures, in images/. answers: of
    questions.read_answers. command: that makes the folder again, or None.
    """
    given = {QUESTIONS[key].property: answer for key, answer in answers.items()}
    if "creator" in given:
        given["creator"] = {"@type": "sc:Organization", "name": given["creator"]}
    responsible = any(name.startswith("rai:") for name in given)
    value = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [VERSION, RESPONSIBLE] if responsible else VERSION,
        "name": report["title"],
        "description": description(report),
        **given,
    }
    if report["language"]:
        value["inLanguage"] = report["language"]
    if command:
        value["prov:wasGeneratedBy"] = {"@type": "prov:Activity", "prov:label": command}
    splits = list(report["splits"])
    value["distribution"] = [_file(name, *what) for name, what in files.items()]
    value["distribution"].append(
        _file_set("record-files", "The CSVs of the splits.", [f"{split}.csv" for split in splits], ["text/csv"])
    )
    if with_images:
        kinds = [MIME[kind] for kind in report["total"]["images"]["formats"]]
        value["distribution"].append(_file_set("image-files", "The pictures.", ["images/*", "images/**/*"], kinds))
    value["recordSet"] = [_splits(splits), _records(splits, columns, report["total"]["records"]), _images(images_count)]
    if with_images:
        value["recordSet"].append(_pictures(images_count))
    return value


def _file(name, sha256, size):
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": "text/csv",
        "sha256": sha256,
    }


def _file_set(name, meaning, includes, formats):
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "description": meaning,
        "encodingFormat": formats,
        "includes": includes,
    }


def _splits(splits):
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [
            {"@type": "cr:Field", "@id": "splits/name", "name": "name", "dataType": "sc:Text"},
            {"@type": "cr:Field", "@id": "splits/url", "name": "url", "dataType": ["sc:URL", "cr:Split"]},
        ],
        "data": [{"splits/name": split, "splits/url": SPLIT_KINDS[split]} for split in splits],
    }


def _records(splits, columns, count):
    split_field = _field("records", "split", "sc:Text", "The split.", {
        "fileSet": {"@id": "record-files"},
        "extract": {"fileProperty": "fullpath"},
        "transform": {"regex": rf"^({'|'.join(splits)})(?:\.csv)?$"},
    })  # fmt: skip
    split_field["references"] = {"field": {"@id": "splits/name"}}
    source = {"fileSet": {"@id": "record-files"}}
    fields = [_column("records", name, "sc:Text", MEANINGS[name], source) for name in columns]
    key = ("split", "topic_id", "image_id")
    return _record_set("records", "Which meme was posted in which topic.", key, [split_field, *fields], count)


def _images(count):
    source = {"fileObject": {"@id": "images.csv"}}
    fields = [_column("images", name, kind, meaning, source) for name, (kind, meaning) in IMAGE_COLUMNS.items()]
    return _record_set("images", "The image files of all splits, by checksum.", ("image",), fields, count)


def _pictures(count):
    path = {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": "fullpath"}}
    content = {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": "content"}}
    fields = [
        _field("pictures", "image", "sc:Text", MEANINGS["image"], path | {"transform": {"regex": "^images/(.*)$"}}),
        _field("pictures", "content", "sc:ImageObject", "The picture.", content),
    ]
    return _record_set("pictures", "The pictures of all splits.", ("image",), fields, count)


def _record_set(name, meaning, key, fields, count):
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": meaning,
        "key": [{"@id": f"{name}/{column}"} for column in key],
        "annotation": {
            "@type": "cr:Field",
            "@id": f"{name}/count",
            "name": "count",
            "dataType": ["sc:Integer", CARDINALITY],
            "value": count,
        },
        "field": fields,
    }


def _column(record_set, name, kind, meaning, source):
    return _field(record_set, name, kind, meaning, source | {"extract": {"column": name}})


def _field(record_set, name, kind, meaning, source):
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "description": meaning,
        "dataType": kind,
        "source": source,
    }
