"""What is read of the hub: from its cache, without a network, and from a server that answers as the hub does."""

import http.server
import logging
import os
import shutil
import threading

import pytest

from modules.backbones.hub import import_transformers, read_json_of
from modules.backbones.protocol import Needs
from modules.backbones.sources import load_backbone
from tests import tower_models
from tests.hub_server import turn_to
from tests.pair_models import write_image, write_pooling, write_text
from util import InputError

tower_models.import_transformers()
constants = pytest.importorskip("huggingface_hub").constants
COMMIT = "0123456789" * 4


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub's; a function that puts a folder's files into it as the model me/NAME."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(folder, name, none=()):
        place = tmp_path / "hub" / f"models--me--{name}"
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / "main").write_text(COMMIT)
        shutil.copytree(folder, place / "snapshots" / COMMIT, dirs_exist_ok=True)
        for file in none:
            (place / ".no_exist" / COMMIT).mkdir(parents=True, exist_ok=True)
            (place / ".no_exist" / COMMIT / file).touch()

    return put


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_how_a_pairs_words_are_pooled_is_not_guessed_where_the_hub_cannot_be_asked(tmp_path, cache, offline):
    pytest.importorskip("timm")
    text = tmp_path / "text"
    write_text(text)
    write_image(tmp_path / "image.safetensors", "test_resnet")
    name = f"pair:test_resnet@{tmp_path / 'image.safetensors'}+me/text"

    def pooling():
        return load_backbone(name, Needs(), [])[0].text.pooling.mode

    cache(text, "text")
    with pytest.raises(InputError, match=r"^modules\.json of me/text .*HF_HUB_OFFLINE.*pair:IMAGE\+FOLDER"):
        pooling()
    cache(text, "text", none=["modules.json"])
    assert pooling() == "mean"
    write_pooling(text, "pooling_mode_cls_token", True)
    cache(text, "text", none=["config_sentence_transformers.json"])
    assert pooling() == "cls"
    shutil.rmtree(tmp_path / "hub" / "models--me--text" / "snapshots" / COMMIT / "1_Pooling")
    with pytest.raises(InputError, match="1_Pooling/config.json of me/text"):
        pooling()


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "preprocessor_config.json"])
def test_a_file_of_hf_towers_that_is_not_in_the_cache_is_named(tmp_path, cache, offline, file):
    folder = tmp_path / "model"
    tower_models.write_model(folder, "clip")
    (folder / "processor_config.json").write_text("{}")
    (folder / file).unlink()
    cache(folder, "clip")
    with pytest.raises(InputError, match=rf"hf:me/clip: {file} of me/clip .*model\.safetensors.*hf:FOLDER"):
        load_backbone("hf:me/clip", Needs(), [])
    if file == "preprocessor_config.json":
        cache(folder, "clip", none=[file])
        notes = []
        load_backbone("hf:me/clip", Needs(), notes)
        assert "there is no preprocessor_config.json" in notes[0]


def test_a_tokenizers_settings_are_not_left_out_where_the_hub_cannot_be_asked(tmp_path, cache, offline):
    folder = tmp_path / "model"
    tower_models.write_model(folder, "clip")
    (folder / "processor_config.json").write_text("{}")
    (folder / "tokenizer_config.json").unlink()
    cache(folder, "clip")
    with pytest.raises(InputError, match="tokenizer_config.json of me/clip is not in the Hugging Face cache"):
        load_backbone("hf:me/clip", Needs(), [])


def test_a_text_encoder_without_a_network_is_told_to_take_a_folder(tmp_path, cache, offline):
    pytest.importorskip("timm")
    write_image(tmp_path / "image.safetensors", "test_resnet")
    with pytest.raises(InputError, match=r"config\.json of me/text .*pair:IMAGE\+FOLDER"):
        load_backbone(f"pair:test_resnet@{tmp_path / 'image.safetensors'}+me/text", Needs(), [])


class Hub(http.server.BaseHTTPRequestHandler):
    """Has the repository, and not the file."""

    def do_HEAD(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_file_that_the_hub_does_not_have_is_none(cache, monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        turn_to(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        try:
            assert read_json_of("me/text", "modules.json", list) is None
        finally:
            server.shutdown()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read_json_of("me/text", "modules.json", list) is None  # it is remembered
    with pytest.raises(InputError, match="config.json of me/text"):
        read_json_of("me/text", "config.json")


def test_a_hub_that_cannot_be_reached_is_named_once_and_without_lines_of_each_try(cache, monkeypatch):
    turn_to("http://127.0.0.1:9", monkeypatch)  # where nobody listens
    monkeypatch.setattr("time.sleep", lambda _: None)
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("huggingface_hub").addHandler(handler)
    try:
        with pytest.raises(InputError, match=r"hf:me/clip: config\.json of me/clip .*cannot be reached.*hf:FOLDER"):
            load_backbone("hf:me/clip", Needs(), [])
    finally:
        logging.getLogger("huggingface_hub").removeHandler(handler)
    assert not lines


def test_the_hub_is_not_asked_to_convert_weights(monkeypatch):
    monkeypatch.delenv("DISABLE_SAFETENSORS_CONVERSION", raising=False)
    import_transformers()
    assert os.environ["DISABLE_SAFETENSORS_CONVERSION"] == "1"
    monkeypatch.setenv("DISABLE_SAFETENSORS_CONVERSION", "0")
    import_transformers()
    assert os.environ["DISABLE_SAFETENSORS_CONVERSION"] == "0"
