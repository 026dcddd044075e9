"""scripts.reproduce before any run starts: which runs, by which commands, in which state and why."""

import json
import shlex
import shutil
import subprocess

import cv2
import pytest
import torch

from engine import run_record
from engine.arguments import METHOD_NAMES, parse_arguments
from engine.build_model import complete_arguments
from engine.methods import METHODS
from modules.backbones.weights_file import read_weights
from scripts.reference import to_arguments
from scripts.reproduce import main, print_outcome
from scripts.reproduction import changed_code
from scripts.reproduction.plan import DONE, Run, State
from scripts.reproduction.runner import Outcome
from tests.conftest import ROOT
from tests.tiny_community import Place, read_csv, run, write_csv

SHARED = ["--coef_lr", "1", "--lr", "1e-3", "--epochs", "1", "--batch_size", "8", "--batch_size_val", "8"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("reproduce"), train=2, val=1, test=1, animated=0)
    yield place
    shutil.rmtree(place.folder)


@pytest.fixture
def plan(place, capsys):
    """`plan(*own flags, shared=flags for every run)`: {run's name: (its state, its command's words or None)}."""

    def plan(*flags, shared=(), out="runs", communities=("community",), methods=("ief_qc",)):
        argv = ["--communities", *communities, "--data_root", str(place.folder), "--out", str(place.folder / out)]
        argv += ["--methods", *methods, "--dry_run", *flags, "--", "--pretrained_clip_name", str(place.clip)]
        assert main([*argv, *SHARED, *shared]) == 0
        runs, plan.notes, last = {}, [], None
        for line in capsys.readouterr().out.splitlines():
            name, _, state_or_note = line.removeprefix("# ").partition(": ")
            if not line.startswith("# "):
                runs[last] = (runs[last][0], shlex.split(line))
            elif "seed" in name and not name.startswith(" "):
                runs[name], last = (state_or_note, None), name
            else:
                plan.notes.append(line)
        return runs

    return plan


@pytest.fixture(scope="module")
def finished(place):
    """A run of ief_qc that main_task_retrieval.py made by the command that is printed for it."""
    flags = ["--do_train", "--method", "ief_qc", "--data_path", str(place.data), "--pretrained_clip_name"]
    folder = place.folder / "finished" / "community" / "ief_qc" / "seed_0"
    code, printed = run([*flags, str(place.clip), *SHARED, "--output_dir", str(folder)])
    assert code == 0, printed
    return folder


@pytest.fixture
def out(place, finished):
    """The name of an --out with a copy of the finished run, and the copy."""
    copy = place.folder / "copy"
    shutil.copytree(place.folder / "finished", copy)
    yield copy / finished.relative_to(place.folder / "finished")
    shutil.rmtree(copy)


ONLY = "community ief_qc seed 0"


def state(plan, *flags, **more):
    return plan(*flags, out="copy", **more)[ONLY]


def test_every_run_of_the_cross_product_once(plan, place):
    shutil.copytree(place.data, place.folder / "other")
    methods, seeds = ("ief_qc", "drl_wti", "zero_shot_clip_captions"), ("--seeds", "3", "1", "3")
    runs = plan(*seeds, communities=("community", "other"), methods=methods)
    of_one = ["zero_shot_clip_captions seed 3", "drl_wti seed 3", "drl_wti seed 1", "ief_qc seed 3", "ief_qc seed 1"]
    assert list(runs) == [f"{name} {run}" for name in ("community", "other") for run in of_one]
    assert not (place.folder / "runs").exists(), "a dry run writes nothing"
    for name, (state, command) in runs.items():
        community, method, _, seed = name.split()
        assert state.startswith("missing")
        args, _ = parse_arguments(command[2:])
        assert (args.method, args.seed, args.datatype) == (method, int(seed), "custom")
        assert args.data_path == str(place.folder / community)
        assert args.output_dir == str(place.folder / "runs" / community / method / f"seed_{seed}")
        assert args.do_train == METHODS[method].trained


def test_a_community_of_the_benchmark_is_named_to_its_runs(plan, place):
    shutil.copytree(place.data, place.folder / "english_memes")
    runs = plan(communities=["english_memes", "douban_memers"])
    assert list(runs) == ["english_memes ief_qc seed 0"]
    [(_, command)] = runs.values()
    assert parse_arguments(command[2:])[0].datatype == "english_memes"
    [note] = plan.notes
    assert note.startswith("# douban_memers: no data: no folder") and "authors" in note


def test_groups_of_methods(plan):
    count = {group: sum(method.group == group for method in METHODS.values()) for group in ("main", "ablation")}
    assert len(plan(methods=["main"])) == count["main"]
    equal_to_ief = 1  # ief_emotion_clip, as CLIP has weights
    assert len(plan(methods=["ablation", "main", "ief"])) == count["main"] + count["ablation"] - equal_to_ief


def test_flags_without_effect_are_left_out_and_no_others(plan):
    """Every command is accepted; with any of the flags that it lacks, it is not."""
    shared = {
        **{"lr": "0.002", "fusion_lr": "0.1", "fusion_weight": "0.3", "epochs": "5", "bert_name": "a folder"},
        **{"freeze_layer_num": "-1", "cross_num_hidden_layers": "1", "max_caption_words": "40", "wti_arch": "3"},
        **{"rerank_top": "9", "precision": "bf16", "text_pool_type": "weight_l", "resize": "pad"},
    }
    shared = {f"--{name}": value for name, value in shared.items()}
    left_out = set()
    for name, (_, command) in plan(methods=METHOD_NAMES, shared=sum(shared.items(), ())).items():
        parse_arguments(command[2:])
        for flag in shared.keys() - set(command):
            left_out.add(flag)
            with pytest.raises(SystemExit):
                parse_arguments([*command[2:], flag, shared[flag]])
        last = {flag: value for flag, value in zip(command, command[1:], strict=False) if flag in shared}
        assert last == {flag: shared[flag] for flag in last}, name
    assert left_out == shared.keys() - {"--precision"}


def test_a_flag_that_a_left_out_one_gave_its_effect_is_left_out_too(plan):
    shared = ["--emotion_encoder", "bert", "--bert_name", "x"]
    (_, command), _ = plan(methods=["drl_wti", "ief"], shared=shared).values()
    assert "--emotion_encoder" not in command and "--bert_name" not in command


def test_references_get_the_flags_that_they_have(plan):
    shared = ["--caption_source", "both", "--save_similarity", "--max_words", "20"]
    runs = plan("--sentence_model", "a model", methods=["reference", "ief_qc"], shared=shared)
    commands = {name.split()[1]: command for name, (_, command) in runs.items()}
    for name in ("bm25", "sentence_encoder"):
        assert commands[name][1:4] == ["-m", "scripts.reference", name]
        args = to_arguments(commands[name][3:])
        assert (args.caption_source, args.save_similarity, args.overwrite) == ("both", True, True)
    assert args.sentence_model == "a model"
    assert parse_arguments(commands["ief_qc"][2:])[0].max_words == 20


def test_flags_that_change_a_method_are_told(plan):
    shared = ["--freeze_layer_num", "-1", "--emotion_fusion", "token"]
    plan(methods=["clip4clip_meanp", "drl_wti"], shared=shared[:2])
    assert plan.notes == ["# note: clip4clip_meanp runs with --freeze_layer_num -1 instead of 0"]
    plan(methods=["ief_no_emotions", "ief_qc"], shared=shared[2:])
    assert plan.notes == ["# note: ief_no_emotions runs with --emotion_fusion token instead of none"]
    plan(methods=["ief_emotion_token", "drl_wti"], shared=shared[2:])
    message = "--emotion_fusion token, which ief_emotion_token is about, is a flag of every run"
    assert [note for note in plan.notes if "ief" in note] == [f"# note: {message}"]


SCRATCH = ("--pretrained_clip_name", "ViT-tiny/8")


@pytest.mark.parametrize(
    ("methods", "shared", "made", "note"),
    [
        (["ief", "ief_pad"], ["--resize", "pad"], ["ief"], "ief_pad is not run: same settings as ief"),
        (["ief", "ief_pad"], ["--resize", "squash"], ["ief"], "ief_pad is not run: same settings as ief"),
        (["ief", "ief_pad"], [], ["ief", "ief_pad"], None),
        (["ief", "ief_emotion_clip"], [], ["ief"], "ief_emotion_clip is not run: same settings as ief"),
        (["ief", "ief_emotion_learned"], SCRATCH, ["ief"], "ief_emotion_learned is not run: same settings as ief"),
        (["ief", "ief_emotion_clip"], SCRATCH, ["ief", "ief_emotion_clip"], None),
        (["ief_pad", "ief_squash"], ["--resize", "squash"], ["ief_squash"], "ief_pad is not run: same settings as"),
        (["ief", "ief_staged"], ["--co_train", "staged"], ["ief_staged", "ief"], "ief_staged has the same settings"),
    ],
)
def test_of_methods_that_the_flags_make_equal_the_ablation_is_left_out(plan, methods, shared, made, note):
    runs = plan("--seeds", "0", "1", methods=methods, shared=shared)
    assert list(runs) == [f"community {name} seed {seed}" for name in made for seed in (0, 1)]
    assert any(note in line for line in plan.notes) if note else plan.notes == []


def test_zero_shot_is_left_out_where_clip_starts_from_scratch(plan):
    runs = plan(methods=["bm25", "zero_shot_clip", "zero_shot_clip_captions", "ief_qc"], shared=SCRATCH)
    assert [name.split()[1] for name in runs] == ["bm25", "ief_qc"]
    why = "zero-shot needs towers that have a common space of their own"
    assert plan.notes == [f"# note: zero_shot_clip{part} is not run: {why}" for part in ("", "_captions")]


def test_a_finished_run_is_left_alone(plan, out):
    assert state(plan) == ("done", None)
    no_matter = ["--n_display", "1", "--save_steps", "9", "--device", "cpu", "--num_thread_reader", "0"]
    assert state(plan, shared=no_matter) == ("done", None)


@pytest.mark.parametrize(
    ("shared", "reason"),
    [
        (["--lr", "5e-4"], "--lr was 0.001, is 0.0005"),
        (["--epochs", "3"], "--epochs was 1, is 3"),
        (["--resize", "pad"], None),
        (["--max_words", "20", "--precision", "bf16"], "--max_words was 32, is 20; --precision was fp32, is bf16"),
        (["--loss_weights", "1", "1", "2"], None),
    ],
)
def test_another_flag_is_a_reason_if_it_has_an_effect(plan, out, shared, reason):
    found, command = state(plan, shared=shared) if reason else state(plan, methods=["ief_qc", "ief"], shared=shared)
    if reason is None:
        assert found.startswith("done") and command is None
    else:
        assert found == f"made again: {reason}" and "--overwrite" in command


def test_other_data_are_a_reason(plan, out, place):
    csv = place.data / "test.csv"
    before = csv.read_bytes()
    write_csv(csv, read_csv(csv)[:-1])
    assert state(plan)[0] == "made again: test.csv has changed"
    csv.write_bytes(before)
    assert state(plan) == ("done", None)


def test_other_images_are_a_reason_where_a_run_opens_them(plan, out, place):
    """drl_wti opens them, ief_qc does not; of the run of drl_wti only the records are there."""
    name, methods = "community drl_wti seed 0", ["drl_wti", "ief_qc"]
    args, _ = parse_arguments(plan(methods=methods, out="copy")[name][1][2:-1])
    complete_arguments(args)
    folder = shutil.copytree(out, out.parents[1] / "drl_wti" / "seed_0")
    (folder / "args.json").write_text(json.dumps(vars(args)))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    (folder / "metrics.json").write_text(json.dumps(metrics | {"method": "drl_wti"}))
    image = place.data / "images" / "train_red_1.png"
    before = image.read_bytes()
    assert plan(methods=methods, out="copy") == {name: ("done", None), ONLY: ("done", None)}
    cv2.imwrite(str(image), cv2.resize(cv2.imread(str(image)), (64, 64)))
    states = plan(methods=methods, out="copy")
    image.write_bytes(before)
    assert states[name][0] == "made again: images of train have changed"
    assert states[ONLY] == ("done", None)


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A folder with a copy of the sources, a git repository, of which the code's version is taken."""
    for name in run_record.REFERENCE_SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(run_record, "ROOT", tmp_path)
    assert run_record.git("init", "--quiet") is not None
    commit(tmp_path)
    return tmp_path


def commit(folder):
    """Commit all that is in a repository: the commit."""
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    for words in (["add", "."], [*who, "commit", "--quiet", "-m", "as it is now"]):
        subprocess.run(["git", "-C", folder, *words], check=True)
    return run_record.code_version()["commit"]


def edit(path, before, after):
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def test_an_ablation_more_and_another_docstring_leave_finished_runs_alone(plan, out, code):
    one_more = '_ablation("ief_short", "9", "--max_words 9", "words of a query (32)"),'
    edit(code / "engine" / "methods.py", '_ablation("ief_qi"', f'{one_more}\n        _ablation("ief_qi"')
    edit(code / "metrics.py", '"""', '"""Now with other words: ')
    assert state(plan) == ("done", None) and plan.notes == []


def test_finished_runs_stay_when_a_formula_has_changed_and_it_is_told_where(plan, out, code):
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    record["code"]["commit"] = made_by = run_record.code_version()["commit"]
    (out / "run.json").write_text(json.dumps(record), encoding="utf-8")
    edit(code / "metrics.py", "1 / np.log2", "2 / np.log2")
    edit(code / "engine" / "methods.py", "IEF plus", "IEF and more")
    commit(code)
    edit(code / "modules" / "loss.py", "softmax", "softmin")  # not committed
    assert state(plan) == ("done: by another version of the code", None)
    assert plan.notes == [
        "# THE CODE HAS CHANGED since 1 finished run was made. It stays; --remake changed makes such runs again.",
        f"#   {ONLY}:",
        f"#     since commit {made_by[:12]}:",
        "#     metrics.py      | 2 +-",
        "#     modules/loss.py | 2 +-",
        "#     2 files changed, 2 insertions(+), 2 deletions(-)",
    ]
    assert state(plan, shared=["--lr", "2e-3"])[0] == "made again: --lr was 0.001, is 0.002"
    found, command = state(plan, "--remake", "changed")
    assert found == "made again: the code has changed" and "--overwrite" in command and plan.notes == []


@pytest.mark.parametrize(
    ("commit", "why"),
    [
        (None, "made outside a git repository"),
        ("f" * 40, "made by commit ffffffffffff, which this repository has not"),
        ("--output=stat", "made by commit --output=sta, which this repository has not"),
        ("HEAD", "made by commit HEAD, which this repository has not"),
    ],
)
def test_where_the_code_has_changed_may_not_be_known(code, commit, why):
    assert changed_code.where(commit, ["metrics.py"]) == [f"{why}: where it has changed is not known"]
    assert not (code / "stat").exists()


def test_a_change_that_was_never_committed_is_told(code):
    made_by = run_record.code_version()["commit"]
    [line] = changed_code.where(made_by, run_record.SOURCES)
    assert line.startswith(f"made by commit {made_by[:12]} with changes that were not committed")


def test_what_is_told_is_short(code):
    record = {"version": "x", "commit": run_record.code_version()["commit"]}
    for path in (code / "modules").glob("*.py"):
        path.write_text("changed = True\n", encoding="utf-8")
    runs = [Run("c", METHODS["ief"], seed, code / str(seed), (), {}, None, True) for seed in range(50)]
    runs.append(Run("c", METHODS["bm25"], 0, code / "bm25", (), {}, None, False))
    states = {run.name: State(DONE, "", record) for run in runs}
    head, of_runs, *changes = changed_code.lines(runs, states)
    assert "since 51 finished runs were made. They stay" in head
    assert of_runs == "  c ief seed 0, c ief seed 1, c ief seed 2 and 48 more:"
    assert sum(" | " in line for line in changes) == changed_code.FILES
    assert all(len(line) < 100 for line in changes)
    assert changed_code.lines(runs, {run.name: State(DONE) for run in runs}) == []


def test_how_many_runs_other_code_has_made_is_said_in_the_end(capsys):
    print_outcome(Outcome(), {"a": State(DONE), "b": State(DONE, "", {"version": "x", "commit": None})})
    assert capsys.readouterr().out == "2 of 2 runs are made, 1 of them by other code\n"


def test_a_record_that_says_too_little_is_a_reason(plan, out):
    (out / "run.json").write_text('{"command": "python"}')
    assert "does not say by what code and data" in state(plan)[0]
    (out / "run.json").unlink()
    assert "run.json: found no such file" in state(plan)[0]
    (out / "args.json").write_text('{"lr": ')
    assert "args.json: found no valid JSON" in state(plan)[0]
    (out / "metrics.json").unlink()
    (out / "checkpoint_last.pt").unlink()
    assert state(plan)[0].startswith("missing"), "a start that failed"


@pytest.mark.parametrize("name", ["metrics.json", "test_queries.npz"])
def test_a_finished_run_whose_results_cannot_be_read_is_made_again(plan, out, name):
    path = out / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, command = state(plan)
    assert found.startswith(f"made again: {path}: ") and command[-1] == "--overwrite"


def test_an_interrupted_run_goes_on_if_nothing_has_changed(plan, out, monkeypatch):
    (out / "metrics.json").unlink()
    found, command = state(plan)
    assert found == "interrupted" and command[-2:] == ["--resume_model", str(out / "checkpoint_last.pt")]
    assert "--overwrite" not in command
    found, command = state(plan, shared=["--lr", "5e-4"])
    assert found == "made again: --lr was 0.001, is 0.0005" and "--resume_model" not in command
    monkeypatch.setattr(run_record, "code_version", lambda _: {"version": "another", "commit": None})
    assert state(plan)[0] == "made again: the code has changed"


def test_what_one_process_cannot_resume_is_made_again(plan, out):
    (out / "metrics.json").unlink()
    last = out / "checkpoint_last.pt"
    state_of_two = torch.load(last, weights_only=True)
    state_of_two["random_states"] *= 2
    torch.save(state_of_two, last)
    found, command = state(plan)
    assert "was written by 2 process(es), this run has 1" in found and "--overwrite" in command
    last.write_bytes(last.read_bytes()[:1000])
    assert state(plan)[0].startswith(f"made again: {last} cannot be read")


def test_runs_are_dealt_to_the_gpus(plan, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    runs = plan("--gpus", "0", "1", "--seeds", "0", "1", "2")
    assert [command[0] for _, command in runs.values()] == [f"CUDA_VISIBLE_DEVICES={n}" for n in (0, 1, 0)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")  # what is numbered are the GPUs that are left to see
    assert [command[0] for _, command in plan("--gpus", "1").values()] == ["CUDA_VISIBLE_DEVICES=7"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--communities": ["communty"]}, "--communities communty: no folder of this name in"),
        ({"--communities": ["../community"]}, "--communities ../community: no folder of this name"),
        ({"--communities": ["douban_memers"]}, "douban_memers: no data: no folder"),
        ({"--communities": ["empty"]}, "train.csv does not exist"),
        ({"--data_root": ["nowhere"]}, "--data_root nowhere: no such folder"),
        ({"--methods": ["ief", "clip5clip"]}, "--methods clip5clip: no such method; there are bm25,"),
        ({"--seeds": ["0", "-1"], "--methods": ["bm25"]}, "argument --seeds: must be between 0 and 4294967295, not -1"),
        ({"--methods": ["ief", "ief_qi"], "--baseline": ["ief_qi"]}, "--baseline: found ief_qi, expected a method of"),
        ({"--baseline": ["drl_wti"]}, "--baseline drl_wti is none of the methods: ief_qc"),
        ({"--gpus": ["0"]}, "--gpus 0: torch sees no GPU here"),
        ({"--any_code": []}, "--any_code is gone: finished runs of other code stay, and --remake changed makes them"),
        ({"--": ["--lr", "fast"]}, "argument --lr: invalid non_negative value: 'fast'"),
        ({"--": ["--learning_rate", "1"]}, "unrecognized arguments: --learning_rate 1"),
        ({"--": ["5"]}, "unrecognized arguments: 5"),
        ({"--": ["--seed", "5"]}, "--seed is set by scripts.reproduce itself"),
        ({"--": ["--overwrite"]}, "--overwrite is set by scripts.reproduce itself"),
        (
            {"--sentence_model": ["x"]},
            "--sentence_model is for sentence_encoder and sentence_encoder_max, which",
        ),
        ({"--": ["--resize", "pad"]}, "--resize has no effect on any of the methods (ief_qc)"),
        ({"--": ["--max_words", "2"]}, "ief_qc: --max_words below 3 leaves no word"),
        ({"--communities": ["community", "empty"], "--": ["--features_path", "x"]}, "--features_path is for one"),
        ({"--methods": ["zero_shot_clip"], "--": SCRATCH}, "zero_shot_clip: zero-shot needs towers"),
        (
            {"--methods": ["zero_shot_clip", "ief"], "--baseline": ["zero_shot_clip"], "--": SCRATCH},
            "--baseline zero_shot_clip is not run: zero-shot needs towers",
        ),
        (
            {"--methods": ["bm25", "ief"], "--": [*SCRATCH, "--skip_bad_images"]},
            "--skip_bad_images: bm25 open no images",
        ),
        (
            {"--methods": ["ief_published"], "--": [*SCRATCH, "--bert_name", "./bert"]},
            "--bert_name ./bert: no such folder",
        ),
        (
            {"--methods": ["ief", "ief_published"], "--": [*SCRATCH, "--emotion_fusion", "none", "--lr", "1"]},
            "The method itself sets --emotion_encoder, which does not go with --emotion_fusion none for every run",
        ),
        (
            {"--methods": ["drl_wti"], "--": [*SCRATCH, "--sim_header", "tightTransf"]},
            "The method itself sets --interaction, which does not go with --sim_header tightTransf for every run",
        ),
        ({"--": ["--pretrained_clip_name", "no/such.pt"]}, "no/such.pt: no CLIP weights here"),
        ({"--": []}, "ViT-B-32.pt: no CLIP weights here. Fetch them with"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_starts(place, tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.setattr("modules.backbones.published.WEIGHTS_FOLDER", tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    (place.folder / "empty").mkdir(exist_ok=True)
    flags = {"--communities": ["community"], "--methods": ["ief_qc"], "--data_root": [str(place.folder)]}
    flags |= {"--out": [str(tmp_path / "runs")], "--": ["--pretrained_clip_name", str(place.clip)]} | changes
    shared = flags.pop("--")
    with pytest.raises(SystemExit) as stop:
        main([*sum(([flag, *values] for flag, values in flags.items()), []), "--", *shared])
    said = f"{stop.value} {capsys.readouterr().err}"
    assert message in said, said
    assert not (tmp_path / "runs").exists()


def test_weights_that_are_not_known_to_fit_are_refused_before_anything_starts(place, tmp_path, capsys):
    torch.save(read_weights(place.clip).state, tmp_path / "plain.pt")
    argv = ["--communities", "community", "--methods", "ief_qc", "--data_root", str(place.folder), "--dry_run"]
    argv += ["--out", str(tmp_path / "runs"), "--", "--pretrained_clip_name", str(tmp_path / "plain.pt")]
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert "plain.pt: the tensors of a state dict do not tell" in str(stop.value)
    assert main([*argv, "--clip_activation", "quick_gelu", "--clip_heads", "1", "1"]) == 0
    assert "--clip_activation quick_gelu --clip_heads 1 1" in capsys.readouterr().out


def test_bad_rows_of_all_communities_are_reported(place, tmp_path, capsys):
    for name in ("one", "two"):
        shutil.copytree(place.data, tmp_path / name)
        with open(tmp_path / name / "val.csv", "a", encoding="utf-8") as file:
            file.write("m,m.png,t9,a query,not a list,\n")
    argv = ["--communities", "one", "two", "--methods", "ief_qc", "--data_root", str(tmp_path), "--out", "runs", "--"]
    with pytest.raises(SystemExit, match="(?s)one/val.csv.*line.*two/val.csv.*line"):
        main([*argv, "--pretrained_clip_name", str(place.clip)])


def test_captions_are_checked_only_if_a_run_reads_them(plan, place, capsys):
    shutil.copytree(place.data, place.folder / "bare")
    for split in ("train", "val", "test"):
        rows = read_csv(place.data / f"{split}.csv")
        write_csv(place.folder / "bare" / f"{split}.csv", [row | {"captions": "[]"} for row in rows])
    with pytest.raises(SystemExit, match="(?s)--caption_source text reads the column 'text'.*found no caption"):
        plan(communities=["bare"], methods=["drl_wti", "ief_qc"])
    assert len(plan(communities=["bare"], methods=["drl_wti", "ief_text"])) == 2
    shutil.copytree(place.data, place.folder / "no text")
    for split in ("train", "val"):
        rows = read_csv(place.data / f"{split}.csv")
        write_csv(place.folder / "no text" / f"{split}.csv", [row | {"text": ""} for row in rows])
    with pytest.raises(SystemExit, match=r"no text: train split: no meme has a caption \(--caption_source text\)"):
        plan(communities=["no text"], methods=["ief_qc", "ief_text"])
    only_test = ["bm25", "sentence_encoder", "drl_wti"]
    assert len(plan(communities=["no text"], methods=only_test, shared=["--caption_source", "text"])) == 3
    assert len(plan(communities=["bare"], methods=["ief", "ief_qc"], shared=["--caption_source", "text"])) == 2
