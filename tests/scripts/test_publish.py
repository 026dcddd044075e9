"""scripts.publish: what is loaded back is the model to the last bit, the card is the run's records, no path leaves."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
import torch

from engine import checkpoint, published_model
from engine.arguments import given_values
from modules.backbones.names import without_folders
from scripts import publish
from scripts.publishing.folder import write_files, write_weights
from scripts.publishing.questions import QUESTIONS, TOWERS
from scripts.reporting.shown_runs import read_run
from tests.hub_server import TOKEN, Repository, hub, turn_to
from tests.recommend.models import indexed, only_test_split, save_model
from tests.tiny_community import Place, read_csv, read_json, run, same_tensors
from util import InputError, sha256_of, write_json

load_file = pytest.importorskip("safetensors.torch").load_file
huggingface_hub = pytest.importorskip("huggingface_hub")
MATRICES = ("qi.npy", "qc.npy", "fused.npy")
ANSWERS = {key: f"answer to {key}" for key in QUESTIONS} | {"license": "cc-by-nc-4.0"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("publish"), train=2, val=1, test=2, topics=4)
    code, printed = run(place.flags("run", "--epochs", "1", "--save_similarity"))
    assert code == 0, printed
    return place


@pytest.fixture(scope="module")
def published(place):
    """The run's model in a folder, all questions open."""
    publish.main([str(place.folder / "run"), "--to", str(place.folder / "published")])
    return place.folder / "published"


@pytest.fixture
def copy(published, tmp_path):
    """The same in a folder that a test may change."""
    return shutil.copytree(published, tmp_path / "copy")


def error_of(*arguments):
    """The message with which the program ends."""
    with pytest.raises(SystemExit) as stop:
        publish.main([str(argument) for argument in arguments])
    return str(stop.value.code)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_scores_are_the_runs(place, output, run_name="run"):
    for name in MATRICES:
        again, first = (np.load(place.folder / folder / name) for folder in (output, run_name))
        assert np.array_equal(again, first)
    again, first = (read_json(place.folder / folder / "metrics.json")["test"] for folder in (output, run_name))
    assert again == first


# --- a folder ----------------------------------------------------------------------------------------------------


def test_a_folder_gives_the_runs_scores_to_the_last_bit(place, published):
    assert files_of(published).keys() == {"README.md", "config.json", "model.safetensors"}
    assert len({(published / name).stat().st_mode for name in files_of(published)}) == 1  # who may read one reads all
    own = checkpoint.load(place.folder / "run" / "checkpoint_best.pt")["model"]
    assert same_tensors(load_file(published / "model.safetensors"), dict(own))
    code, printed = run(place.eval_flags("from_folder", "published", "--save_similarity", "--batch_size_val", "8"))
    assert code == 0, printed
    assert_scores_are_the_runs(place, "from_folder")


def test_recommend_takes_a_folder_and_finds_it_again(place, published, tmp_path):
    community = only_test_split(place, tmp_path / "data")
    answers = []
    for name, model in (("one", place.folder / "run" / "checkpoint_best.pt"), ("other", published)):
        _, recommender = indexed(model, tmp_path / name, data_path=community)
        answers.append([(meme.id, meme.score, meme.qi, meme.qc) for meme in recommender.search("life is red")])
    assert answers[0] == answers[1]


@pytest.mark.parametrize("kind", ["pair", "clip"])
def test_towers_come_with_their_tokenizer_and_without_their_folders(place, tmp_path, kind):
    if kind == "pair":
        from tests.pair_models import import_timm, write_pair

        import_timm()
        name = write_pair(tmp_path / "home" / "towers")
    else:
        from tests.tower_models import import_transformers, write_model

        import_transformers()
        write_model(tmp_path / "home" / "towers", "clip")
        name = f"hf:{tmp_path / 'home' / 'towers'}"
    path = save_model(place, kind, "--pretrained_clip_name", name, "--image_cache", str(tmp_path / "home"))[0]
    state = checkpoint.load(path)
    (tmp_path / "out").mkdir()
    write_files(tmp_path / "out", read_run(place.folder / "run"), state, "a title", "FOLDER", {})
    shutil.rmtree(tmp_path / "home")
    loaded = published_model.load(tmp_path / "out")
    for part in ("model", "emotion_words", "fitted_alpha"):
        assert same_tensors(loaded[part], state[part])
    assert json.dumps(loaded["backbone"], default=torch.Tensor.tolist) == json.dumps(
        state["backbone"], default=torch.Tensor.tolist
    )
    found = files_of(tmp_path / "out")
    assert "tokenizer/tokenizer.json" in found
    for content in found.values():
        assert str(tmp_path).encode() not in content and str(place.folder).encode() not in content
    flags = read_json(tmp_path / "out" / "config.json")["arguments"]
    assert flags["pretrained_clip_name"] == {"pair": "pair:test_vit@image.safetensors+text", "clip": "hf:towers"}[kind]
    assert not {"output_dir", "data_path", "image_cache", "device"} & flags.keys()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *(
            (name, name)
            for name in ("ViT-L/14@336px", "small", "hf:openai/clip-vit-base-patch32", "open_clip:RN50/yfcc")
        ),
        ("/home/someone/clip.pt", "clip.pt"),
        (r"C:\Users\someone\clip.pt", "clip.pt"),
        ("hf:~/towers/clip/", "hf:clip"),
        ("pair:net@../x/net.bin+sentence/encoder", "pair:net@net.bin+sentence/encoder"),
        ("open_clip:/home/me/arch.json@/home/me/x.pt", "open_clip:arch.json@x.pt"),
    ],
)
def test_names_of_towers_lose_the_folders_of_a_machine(name, shown):
    assert without_folders(name) == shown


def test_tensors_keep_their_types_and_need_not_be_apart(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"base": base, "shared": base, "part": base[1:], "turned": base.T, "half": base.half()}
    tensors |= {"scalar": torch.tensor(1.5), "count": torch.tensor([3]), "yes": torch.tensor([True]), "none": base[:0]}
    write_weights(tmp_path / "x.safetensors", tensors)
    assert same_tensors(load_file(tmp_path / "x.safetensors"), tensors)


def config_with(**changes):
    return lambda folder: write_json(folder / "config.json", read_json(folder / "config.json") | changes)


def damaged(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def no_safetensors(folder):
    (folder / "model.safetensors").write_bytes(b"text")
    config_with(files={"model.safetensors": sha256_of(folder / "model.safetensors")})(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged, "model.safetensors: found the SHA-256 .* damaged or of another model"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: found no such file"),
        (no_safetensors, "model.safetensors: cannot be read as safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "found no config.json, expected a folder that scripts.publ"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json: found a JSON list"),
        (config_with(model_type="clip"), "found a model of type 'clip', expected 'ief'.*hf:NAME_OR_FOLDER"),
        (config_with(format=2), "found format 2, expected 1: a newer version of this program wrote it"),
        (config_with(format="0"), "found format 0, expected 1$"),
        (config_with(files={"model.safetensors": "", "tokenizer/../../x.json": ""}), "found no checksums"),
        (config_with(files=None), "found no checksums of model.safetensors"),
        (config_with(arguments={"interaction": 5}), "damaged or altered checkpoint: --interaction is '5'"),
        (config_with(emotion_words="happy"), "'emotion_words' is not a list of words"),
    ],
)
def test_a_folder_that_is_none_or_was_changed(copy, change, message):
    change(copy)
    with pytest.raises(InputError, match=message):
        published_model.load(copy)


def test_the_program_says_what_is_wrong_with_a_folder(place):
    code, printed = run(place.eval_flags("never", "run"))
    assert code == 2 and f"error: {place.folder / 'run'}: found no config.json" in printed
    assert "this is a run, give its" in printed and not (place.folder / "never").exists()


def test_an_older_publication_is_replaced_whole_or_not_at_all(place, copy, monkeypatch):
    before = files_of(copy)
    monkeypatch.setattr("scripts.publishing.folder.card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        publish.main([str(place.folder / "run"), "--to", str(copy)])
    assert files_of(copy) == before
    monkeypatch.undo()
    (copy / "config.json").write_text((copy / "config.json").read_text().replace('"happy"', '"joy"'))
    publish.main([str(place.folder / "run"), "--to", str(copy)])
    after = files_of(copy)
    assert after.keys() == before.keys() and after["config.json"] == before["config.json"]
    assert b"# copy\n" in after["README.md"]
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_what_is_no_place_or_no_run(place, published, tmp_path):
    run_folder = place.folder / "run"
    (tmp_path / "hf").mkdir()
    write_json(tmp_path / "hf" / "config.json", {"model_type": "clip"})
    (tmp_path / "file").write_text("")
    assert "type 'clip'" in error_of(run_folder, "--to", tmp_path / "hf")
    assert "expected a folder" in error_of(run_folder, "--to", tmp_path / "file")
    assert "is not empty and was not made by this program" in error_of(run_folder, "--to", run_folder)
    assert "expected a finished run" in error_of(published, "--to", tmp_path / "out")
    shutil.copytree(run_folder, tmp_path / "run")
    state = checkpoint.load(tmp_path / "run" / "checkpoint_best.pt")
    torch.save(state | {"epoch": 7}, tmp_path / "run" / "checkpoint_best.pt")
    assert "found epoch 7 of stage joint, expected 1 of joint" in error_of(tmp_path / "run", "--to", tmp_path / "out")
    (tmp_path / "run" / "checkpoint_best.pt").unlink()
    assert "found no checkpoint_best.pt of a training" in error_of(tmp_path / "run", "--to", tmp_path / "out")
    write_json(tmp_path / "answers.json", {"licence": "mit"})
    told = error_of(run_folder, "--to", tmp_path / "out", "--answers", tmp_path / "answers.json")
    assert "found the key 'licence', expected some of license, " in told
    assert not (tmp_path / "out").exists()


# --- the card ----------------------------------------------------------------------------------------------------


def test_the_hubs_library_reads_the_card_and_finds_the_runs_metrics_in_it(place, published):
    found = huggingface_hub.ModelCard.load(published / "README.md")
    own = read_json(place.folder / "run" / "metrics.json")["test"]["scores"]["fused"]["query_to_meme"]["metrics"]
    assert {result.metric_type: result.metric_value for result in found.data.eval_results} == pytest.approx(
        own, rel=0, abs=5.1e-5
    )
    for result in found.data.eval_results:
        assert (result.task_type, result.dataset_type, result.dataset_split) == ("retrieval", "custom", "test")
        assert result.dataset_args["sha256"] == sha256_of(place.data / "test.csv")
    assert found.data.model_name == "published" and found.data.library_name == "ief" and found.data.license is None
    assert "meme-retrieval" in found.data.tags


def test_the_card_has_what_the_run_was(place, published):
    card = (published / "README.md").read_text(encoding="utf-8")
    for split in ("train", "val", "test"):
        rows = read_csv(place.data / f"{split}.csv")
        counts = [len({row[column] for row in rows}) for column in ("topic_id", "image_id")]
        line = f"| {split} | {len(rows)} | {counts[0]} | {counts[1]} | {sha256_of(place.data / f'{split}.csv')} |"
        assert line in card
    assert str(place.folder) not in card
    assert re.findall(r"^- `(\w+)`: ", card, re.MULTILINE) == list(QUESTIONS)


def test_the_command_in_the_card_has_all_flags_and_no_path():
    from scripts.publishing.card import shown_command

    flags = ["--data_path", "/home/me/data", "--output_dir=/home/me/runs/x", "--loss_weights", "1", "0.5", "2"]
    flags += [
        "--do_train",
        "--pretrained_clip_name",
        "hf:/home/me/clip",
        "--init_model",
        "/home/me/a.pt",
        "--seed",
        "3",
    ]
    shown = shlex.split(shown_command(shlex.join(["python3", "/home/me/ief/main_task_retrieval.py", *flags]), "x"))
    assert shown[:2] == ["python3", "main_task_retrieval.py"]
    assert given_values(shown[2:]) == given_values(flags) | {
        **{"data_path": "DATA_PATH", "output_dir": "OUTPUT_DIR", "init_model": "INIT_MODEL"},
        "pretrained_clip_name": "hf:clip",
    }
    assert shown_command("python x.py --init_model hub:me/x@abc", "x") == "python x.py --init_model hub:me/x@abc"
    with pytest.raises(InputError, match="metrics.json: found a command that no shell would read"):
        shown_command("python 'x", "metrics.json")


def test_answers_are_in_the_card_and_no_question_is_left(place, tmp_path, capsys):
    write_json(tmp_path / "answers.json", ANSWERS)
    argv = [str(place.folder / "run"), "--to", str(tmp_path / "out"), "--answers", str(tmp_path / "answers.json")]
    publish.main(argv)
    assert "questions" not in capsys.readouterr().out
    found = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md")
    assert found.data.license == "cc-by-nc-4.0" and "Open questions" not in found.text
    for key, answer in ANSWERS.items():
        assert f"**{QUESTIONS[key]}**\n\n{answer}\n" in found.text
    write_json(tmp_path / "answers.json", {"license": "ask me"})
    publish.main(argv)
    assert f"{len(QUESTIONS) - 1} questions are open" in capsys.readouterr().out
    assert huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md").data.license == "other"


def test_towers_from_scratch_have_no_licence_of_others():
    from scripts.publishing.folder import asked_of

    assert set(QUESTIONS) - set(asked_of({"pretrained_clip_name": "ViT-tiny/8"})) == {TOWERS}


# --- the hub -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub without repositories, an empty cache, and a token in the environment."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub() as server:
        turn_to(server.address, monkeypatch)
        yield server


def test_a_model_on_the_hub_gives_the_runs_scores_and_its_commit_is_in_the_record(
    place, published, server, monkeypatch, capfd
):
    publish.main([str(place.folder / "run"), "--to", "hub:me/model"])
    repository = server.repositories["me/model"]
    assert repository.private
    assert repository.files.keys() == {".gitattributes", *files_of(published)}
    for name in ("config.json", "model.safetensors"):
        assert repository.files[name] == (published / name).read_bytes()
    card = repository.files["README.md"].decode()
    assert "--init_model hub:me/model " in card and "FOLDER" not in card and "# model\n" in card
    printed = capfd.readouterr()
    assert f"hub:me/model@{repository.head}: published, private" in printed.out
    flags = place.eval_flags("from_hub", "x", "--save_similarity", "--batch_size_val", "8")
    flags[flags.index("--init_model") + 1] = "hub:me/model"
    code, told = run(flags)
    assert code == 0, told
    assert_scores_are_the_runs(place, "from_hub")
    assert read_json(place.folder / "from_hub" / "args.json")["init_model"] == f"hub:me/model@{repository.head}"
    assert set(server.fetched) == {"config.json", "model.safetensors"}
    assert TOKEN not in printed.out + printed.err + told
    assert not any(TOKEN.encode() in content for content in files_of(place.folder / "from_hub").values())
    server.fetched.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # from here on the cache has it
    assert published_model.find("hub:me/model")[0] == f"hub:me/model@{repository.head}"
    with pytest.raises(InputError, match="hub:me/other is not in the Hugging Face cache.*HF_HUB_OFFLINE is set"):
        published_model.find("hub:me/other")


def test_a_second_publication_is_a_commit_and_older_ones_stay(place, server):
    stale = {"tokenizer/old.json": b"{}", "config.json": b'{"model_type": "ief", "format": 1}', "figure.png": b"mine"}
    server.repositories["me/model"] = Repository(True, stale)
    old = server.repositories["me/model"].head
    publish.main([str(place.folder / "run"), "--to", "hub:me/model"])
    repository = server.repositories["me/model"]
    assert list(repository.commits)[0] == old and len(repository.commits) == 2
    assert repository.files.keys() == {".gitattributes", "figure.png", "README.md", "config.json", "model.safetensors"}
    new, folder = published_model.find("hub:me/model")
    assert new == f"hub:me/model@{repository.head}"
    published_model.load(folder)
    assert published_model.find(f"hub:me/model@{old}")[0] == f"hub:me/model@{old}"
    with pytest.raises(InputError, match="the hub has the model, but no such revision"):
        published_model.find("hub:me/model@v9")


def test_what_the_hub_cannot_take_is_said_before_anything_is_made(place, server, monkeypatch):
    run_folder = place.folder / "run"
    server.repositories |= {
        "me/private": Repository(True),
        "me/public": Repository(False),
        "me/other": Repository(True, {"pytorch_model.bin": b""}),
        "me/clip": Repository(True, {"config.json": b'{"model_type": "clip"}'}),
    }
    before = {name: repository.head for name, repository in server.repositories.items()}
    for arguments, message in (
        (["hub:me"], "expected hub:OWNER/NAME"),
        (["hub:me/private@main"], "found a revision"),
        (["hub:me/public"], "is public: give --public"),
        (["hub:me/private", "--public"], "is private: leave --public out"),
        (["hub:me/other"], "holds pytorch_model.bin, and no model of this program"),
        (["hub:me/clip"], "type 'clip'"),
    ):
        assert message in error_of(run_folder, "--to", *arguments)
    monkeypatch.delenv("HF_TOKEN")
    assert "the hub wants a token" in error_of(run_folder, "--to", "hub:me/private")
    assert {name: repository.head for name, repository in server.repositories.items()} == before
    for name in ("hub:me/private", "hub:me/nothing"):
        with pytest.raises(InputError, match="no such model, or does not show it to you: a private one needs a token"):
            published_model.find(name)


def test_the_hubs_library_imports_its_parts_when_they_are_asked_for(monkeypatch):
    monkeypatch.delattr(huggingface_hub, "utils")  # as in a program that has used nothing of it
    assert published_model.import_hub() is huggingface_hub


def test_a_strangers_weights_are_not_fetched(server):
    strangers = {"config.json": b'{"model_type": "clip"}', "model.safetensors": b""}
    server.repositories |= {"me/clip": Repository(False, strangers), "me/empty": Repository(False)}
    with pytest.raises(InputError, match="type 'clip'"):
        published_model.find("hub:me/clip")
    with pytest.raises(InputError, match="hub:me/empty: found no config.json there"):
        published_model.find("hub:me/empty")
    assert server.fetched == ["config.json"]


def test_a_public_repository_is_made_where_it_is_asked_for(place, server, capsys):
    publish.main([str(place.folder / "run"), "--to", "hub:me/open", "--public"])
    assert not server.repositories["me/open"].private
    assert "published, public: " in capsys.readouterr().out
