"""The tokenizers of transformers against the library's own calls."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from modules.backbones.hf_tokenizer import HuggingFaceTokenizer
from tests import tower_models
from tests.tower_models import CONTEXT, TEXTS
from util import InputError

KINDS = ("clip", "metaclip_2", "chinese_clip", "roberta", "siglip", "siglip2_tokenizer")


@pytest.fixture(params=KINDS)
def pair(request, tmp_path):
    """(the tokenizer, the library's own) of a folder."""
    folder = tmp_path / "model"
    tower_models.tokenizer_of(request.param, folder).save_pretrained(folder)
    from transformers import AutoTokenizer

    return HuggingFaceTokenizer.load(folder), AutoTokenizer.from_pretrained(folder)


def test_ids_are_the_librarys(pair):
    tokenizer, library = pair
    for text in [*TEXTS, "THE <s> [SEP] </s> <|endoftext|> eos", " two  spaces\nand a line "]:
        assert tokenizer.encode(text) == library(text)["input_ids"]
        assert tokenizer.tokenize(text, 1000) == (tokenizer.encode(text), 0)


def test_a_cut_text_is_the_librarys_and_its_loss_is_counted(pair, caplog, recwarn):
    tokenizer, library = pair
    text = TEXTS[-1] * 3
    for most in (3, 7, 20):
        expected = library(text, truncation=True, max_length=most)["input_ids"]
        ids, cut = tokenizer.tokenize(text, most)
        assert (ids, cut) == (expected, len(library(text)["input_ids"]) - most)
        assert len(ids) == most and ids[-1] == tokenizer.encode("a")[-1]
    assert not caplog.records and not recwarn.list
    with pytest.raises(ValueError, match="surround"):
        tokenizer.tokenize(text, 0)


def test_padding_and_length_are_the_librarys(pair):
    tokenizer, library = pair
    padded = library(["a", "memes for the angry boss"], padding=True)
    row = padded["input_ids"][0]
    assert row[0 if tokenizer.pads_left else -1] == tokenizer.pad_id == library.pad_token_id
    assert tokenizer.max_length == (None if library.model_max_length > 1e9 else library.model_max_length)
    assert tokenizer.vocab_size == len(library)


def test_the_files_make_the_tokenizer_again_without_a_network(pair, monkeypatch):
    tokenizer, _ = pair
    files = tokenizer.files()
    assert all(content.dtype == torch.uint8 for content in files.values())
    monkeypatch.setattr(socket, "socket", None)
    again = HuggingFaceTokenizer.of_files({name: content.clone() for name, content in files.items()})
    assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert (again.pad_id, again.pads_left, again.max_length) == (
        tokenizer.pad_id,
        tokenizer.pads_left,
        tokenizer.max_length,
    )
    assert {name: content.tolist() for name, content in again.files().items()}.keys() == files.keys()


def test_half_a_character_is_read_as_a_broken_one(pair):
    tokenizer, _ = pair
    assert tokenizer.encode("a \ud83d b") == tokenizer.encode("a \ufffd b")
    assert tokenizer.encode("a \ud83d\ude02 b") == tokenizer.encode("a 😂 b")


def test_the_pieces_account_for_every_token_and_give_the_text_again(pair):
    tokenizer, library = pair
    for text in TEXTS:
        ids = tokenizer.encode(text)
        pieces = tokenizer.pieces(ids)
        assert sum(tokens for _, tokens in pieces) == len(ids)
        assert pieces[-1] == ("<end>", 1)
        assert (pieces[0] == ("<start>", 1)) == (library.bos_token_id == ids[0] or library.cls_token_id == ids[0])
    words = "".join(text for text, _ in tokenizer.pieces(tokenizer.encode("the meme")))
    assert words.replace("<start>", "").replace("<end>", "").strip() == "the meme"


def test_several_threads_get_the_same_ids(pair):
    tokenizer, _ = pair
    texts = [text * (1 + number % 3) for number, text in enumerate(TEXTS * 40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == [tokenizer.encode(text) for text in texts]


def pieces(kind, folder, text):
    tower_models.tokenizer_of(kind, folder).save_pretrained(folder)
    tokenizer = HuggingFaceTokenizer.load(folder)
    ids = tokenizer.encode(text)
    return tokenizer.pieces(ids), tokenizer.unreadable(ids), tokenizer, ids


def test_word_pieces_join_and_chinese_characters_stand_without_spaces(tmp_path):
    found, unreadable, *_ = pieces("chinese_clip", tmp_path, "unbelievable memes 今天 the 😂!")
    letters = [("u", 1), ("n", 1), ("b", 1), ("e", 1), ("lie", 1), ("vable ", 1)]
    ends = [("memes", 1), ("今", 1), ("天", 1), ("the ", 1), ("[UNK]", 1), ("! ", 1)]
    assert found == [("<start>", 1), *letters, *ends, ("<end>", 1)]
    assert unreadable == 1


@pytest.mark.parametrize("kind", ["clip", "roberta", "siglip2_tokenizer"])
def test_bytes_of_a_character_are_one_piece_and_unreadable(kind, tmp_path):
    found, unreadable, tokenizer, ids = pieces(kind, tmp_path, "the 今")
    texts = [text for text, _ in found if text not in ("<start>", "<end>")]
    assert texts == ["the ", "今 "] if kind == "clip" else ["".join(texts), texts[-1]] == ["the 今", "今"]
    assert unreadable == 3  # three bytes, none of which is a character
    cut = ids[: len(ids) - 2] + ids[-1:]
    assert tokenizer.pieces(cut)[-2][0].startswith("\ufffd") and tokenizer.pieces(cut)[-1] == ("<end>", 1)
    assert tokenizer.unreadable(tokenizer.encode("the")) == 0


def test_what_sentencepiece_does_not_know_is_unreadable(tmp_path):
    found, unreadable, *_ = pieces("metaclip_2", tmp_path, "the boss !")
    assert found[1] == ("the ", 1) and ("<unk>", 1) in found and unreadable == 1


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path):
    tower_models.import_transformers()
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="tokenizer") as error:
            HuggingFaceTokenizer.load(folder, local_files_only=True)
        assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    "name", ["../tokenizer.json", "/tokenizer.json", "a/b.json", "code.py", "..", "", 3, "a\n.json"]
)
def test_a_file_that_is_none_of_a_tokenizers_is_refused(name):
    with pytest.raises(InputError, match="tokenizer has a file"):
        HuggingFaceTokenizer.of_files({name: torch.zeros(3, dtype=torch.uint8)})


def test_damaged_files_and_those_that_ask_for_code_are_an_error(tmp_path):
    tower_models.bert_tokenizer().save_pretrained(tmp_path)
    good = HuggingFaceTokenizer.load(tmp_path).files()
    config = json.loads(bytes(good["tokenizer_config.json"].tolist()))
    config |= {"auto_map": {"AutoTokenizer": ["code.Code", None]}, "tokenizer_class": "Code"}
    foreign = good | {"tokenizer_config.json": as_bytes(json.dumps(config).encode())}
    broken = good | {"tokenizer.json": as_bytes(b"{}")}
    other = good | {"tokenizer.json": torch.zeros(3)}
    for files in (foreign, broken, other, {}, None, {"tokenizer_config.json": as_bytes(b"{")}):
        with pytest.raises(InputError):
            HuggingFaceTokenizer.of_files(files)


def as_bytes(content):
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())


def test_the_context_of_a_model_is_what_its_tokenizer_says(tmp_path):
    tower_models.siglip_tokenizer(tmp_path).save_pretrained(tmp_path)
    assert HuggingFaceTokenizer.load(tmp_path).max_length == CONTEXT
