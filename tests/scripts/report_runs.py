"""Communities and folders of finished runs for the report's tests, with scores and texts that a test chooses."""

import csv
import json
from html.parser import HTMLParser

import cv2
import numpy as np

import metrics
from evaluation.query_record import QueryRecord
from util import sha256_of

COLUMNS = ("image_id", "image", "topic_id", "query", "captions", "emotions", "text")
PATHS = {"data_path": None, "test_csv": None, "features_path": None, "output_dir": "elsewhere"}
DEFAULTS = {
    **{"seed": 0, "datatype": "custom", "fusion": "learned", "co_train": "joint", "branches": "qi_qc"},
    **{"emotion_fusion": "channel", "emotion_encoder": "clip", "interaction": "wti", "epochs": 4, "lr": 1e-4},
    **{"method": None, "skip_bad_images": False, "do_train": True, "do_eval": False, "loss_weights": [1.0, 1.0, 1.0]},
}


def write_community(folder, queries, memes, pairs):
    """A folder with test.csv and images/. queries: texts; memes: dicts with some of the columns captions, emotions
    (lists) and text; pairs: (query, meme), sorted by the first appearance of both. Returns the folder.
    """
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(len(memes)):
        picture = np.full((40, 50, 3), rng.integers(0, 256, 3), np.uint8)
        assert cv2.imwrite(str(folder / "images" / f"{number}.png"), picture)
    for query, meme in pairs:
        cells = memes[meme]
        rows.append(
            {
                **{"image_id": cells.get("image_id", f"m{meme}"), "image": f"{meme}.png", "topic_id": f"t{query}"},
                **{"query": queries[query], "text": cells.get("text", "")},
                "captions": json.dumps(cells.get("captions", ["a picture"])),
                "emotions": json.dumps(cells.get("emotions", [])),
            }
        )
    write_rows(folder / "test.csv", rows)
    return folder


def write_rows(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def read_rows(folder):
    with open(folder / "test.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def relevance_of(community):
    """(topic ids, image ids, metrics.Relevance) of a folder's test.csv, in order of first appearance."""
    rows = read_rows(community)
    topics, images = ([*dict.fromkeys(row[column] for row in rows)] for column in ("topic_id", "image_id"))
    pairs = [(topics.index(row["topic_id"]), images.index(row["image_id"])) for row in rows]
    return topics, images, metrics.Relevance(*np.array(pairs).T, (len(topics), len(images)))


def slow_ranks(scores, relevance):
    """((Q, M) ranks, (P,) ranks of the relevant pairs): a plain sort; in a tie what is not relevant comes first."""
    relevant = np.zeros(relevance.shape, bool)
    relevant[relevance.query, relevance.meme] = True
    ranks = np.zeros(relevance.shape, np.int64)
    for query, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda meme: (-row[meme], relevant[query, meme], meme))
        ranks[query, order] = np.arange(1, len(row) + 1)
    return ranks, ranks[relevance.query, relevance.meme]


def write_run(folder, community, scores, alpha=None, words=None, evaluations=(), losses=(), changes=None, **args):
    """A finished run's folder. scores: {score: (Q, M)}, `fused` among them. alpha: (Q,); words: as in QueryRecord;
    changes: of metrics.json; args: of args.json.
    """
    folder.mkdir(parents=True)
    topics, images, relevance = relevance_of(community)
    ranks = {score: slow_ranks(matrix, relevance) for score, matrix in scores.items()}
    best = np.argsort(ranks["fused"][0], axis=1)[:, :10]
    QueryRecord(
        topic_ids=np.array(topics),
        image_ids=np.array(images),
        relevance=relevance,
        ranks={score: of_pairs for score, (_, of_pairs) in ranks.items()},
        best_meme=best,
        best_scores={score: np.take_along_axis(matrix, best, axis=1) for score, matrix in scores.items()},
        best_ranks={score: np.take_along_axis(of_all, best, axis=1) for score, (of_all, _) in ranks.items()},
        alpha=np.array([] if alpha is None else alpha),
        words=words or [[] for _ in topics],
    ).save(folder)
    write(folder / "args.json", DEFAULTS | PATHS | {"data_path": str(community)} | args)
    checksums = {"test": {"csv": sha256_of(community / "test.csv"), "images": "of the images"}}
    code = {"version": "0123456789abcdef" * 4, "commit": None}
    write(folder / "run.json", {"command": "python run", "code": code, "data": checksums})
    if evaluations:
        lines(folder / "metrics.jsonl", evaluations)
        lines(folder / "losses.jsonl", losses)
    write(folder / "metrics.json", results(relevance, ranks, alpha, args) | (changes or {}))
    return folder


def results(relevance, ranks, alpha, args):
    """metrics.json; the numbers of the direction meme to query are the other one's, which the page does not mind."""
    entries = {}
    for score, (_, of_pairs) in ranks.items():
        names, values = metrics.per_query_metrics(of_pairs, relevance.query, *relevance.shape)
        entry = {"metrics": metrics.average(names, values), "intervals": metrics.bootstrap_intervals(names, values)}
        entries[score] = {"query_to_meme": entry, "meme_to_query": entry}
    chance = {"metrics": metrics.random_expectation(relevance)}
    return {
        **{"command": "python main_task_retrieval.py", "seed": args.get("seed", 0), "device": "CPU, 2 threads"},
        **{
            "processes": 1,
            "versions": {"python": "3.11.7", "numpy": "2.4.6"},
            "best epoch": None,
            "counts": {},
            "records/s": None,
        },
        "alpha": {"mean": np.mean(alpha), "min": min(alpha), "max": max(alpha)} if alpha is not None else None,
        "alpha by a grid on val": {"alpha": 0.4, "val_mAP": 50.0} if "fused_val_alpha" in ranks else None,
        "test": {
            **{"scores": entries, "random": {"query_to_meme": chance, "meme_to_query": chance}, "alpha": None},
            **{"queries": relevance.shape[0], "memes": relevance.shape[1], "relevant pairs": len(relevance.query)},
        },
        "seconds": {"training": None, "evaluation on val": None, "all": 65.0},
        "parameters": {"all": 1234567, "trained": 1000000},
        "peak memory (MiB)": {"host": 512},
    }


def evaluation(stage, epoch, step, alpha=None, **mean_precision):
    """A line of metrics.jsonl; mean_precision: {score: mAP}, of which the other metrics are made."""

    def of(value):
        others = dict.fromkeys(metrics.METRICS, value / 2)
        return {direction: {"metrics": others | {"mAP": value}} for direction in ("query_to_meme", "meme_to_query")}

    spread = None if alpha is None else {"mean": alpha, "min": alpha - 0.1, "max": alpha + 0.2}
    place = {"split": "val", "stage": stage, "epoch": epoch, "step": step}
    return place | {
        "losses": {},
        "alpha": spread,
        "scores": {name: of(value) for name, value in mean_precision.items()},
    }


def loss(stage, epoch, step, alpha=None, **losses):
    """A line of losses.jsonl."""
    place = {"stage": stage, "epoch": epoch, "step": step}
    return place | {"losses": losses, "alpha": alpha, "lr": {"new": 1e-4}, "records/s": 10.0}


def write(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


def lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def embedded_data(page):
    """What the page's script reads, as a browser would take it out of the file."""
    text = page.split('<script id="data" type="application/json">')[1].split("</script>")[0]
    return json.loads(text)


class Element:
    """An element of a parsed page: its tag, attributes and children (elements and texts)."""

    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children = tag, dict(attributes), []

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag, **attributes):
        """The elements below with this tag and these attributes, in order; `class_` is the attribute class."""
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
        found = []
        for child in (child for child in self.children if not isinstance(child, str)):
            if child.tag == tag and wanted.items() <= child.attributes.items():
                found.append(child)
            found += child.all(tag, **attributes)
        return found

    def one(self, tag, **attributes):
        [found] = self.all(tag, **attributes)
        return found

    def rows(self):
        """Of a table: the texts of its rows' cells."""
        return [[cell.text for cell in row.children] for row in self.all("tr")]


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = [Element("", ())]

    def handle_starttag(self, tag, attributes):
        element = Element(tag, attributes)
        self.open[-1].children.append(element)
        if tag not in ("meta", "input"):
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag, f"</{tag}> ends another element"

    def handle_data(self, text):
        self.open[-1].children.append(text)


def parsed(page):
    """The page as one Element; an assertion fails where an element is not closed."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    [root] = reader.open
    return root
