"""The shell scripts, run for real with programs in Python's and pip's place that write down how they were called."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from scripts import missing_packages
from scripts.missing_packages import missing, normalized, read_lines, release
from scripts.reproduce import to_arguments
from scripts.reproduction.choice import chosen_methods
from scripts.reproduction.command_lines import CommonFlags, make_runs
from tests.conftest import ROOT

SHELLS = [["sh"], ["bash"]] + ([["busybox", "sh"]] if shutil.which("busybox") else [])
COMMUNITY_SCRIPTS = sorted(path.name for path in ROOT.glob("co_train_*.sh") if path.name != "co_train_demo.sh")

# Stands for an environment's python: LOG gets its arguments, FOLDER holds what it answers and what pip was given.
PYTHON_STUB = """#!/bin/sh
printf '%s|' "$@" >>"$FOLDER/log"
echo >>"$FOLDER/log"
case "$*" in
  *version_info*) exec "$REAL_PYTHON" "$@" ;;
  *missing_packages.py*) cat "$FOLDER/missing"; exit "$(cat "$FOLDER/missing_status" 2>/dev/null || echo 0)" ;;
  *"-m pip"*" list"*) printf '%s\\n' torch==2.4.0+cu121 numpy==1.26.4 ;;
  *"-m pip"*" install"*)
    while [ $# -gt 0 ]; do
      [ "$1" != -r ] || cp "$2" "$FOLDER/pip_requirements"
      [ "$1" != -c ] || cp "$2" "$FOLDER/pip_constraints"
      shift
    done
    echo "  Downloading torch-2.13.0-cp311.whl (900 MB)"
    echo "Requirement already satisfied: numpy"
    status=$(cat "$FOLDER/pip_status" 2>/dev/null || echo 0)
    [ "$status" = 0 ] && : >"$FOLDER/missing"
    exit "$status" ;;
  *main_task_retrieval.py*) exit "$(cat "$FOLDER/train" 2>/dev/null || echo 0)" ;;
  *device_count*) cat "$FOLDER/gpus" ;;
  *"-m ruff"*) exit "$(cat "$FOLDER/ruff_$3" 2>/dev/null || echo 0)" ;;
  *"-m mypy"*) exit "$(cat "$FOLDER/mypy" 2>/dev/null || echo 0)" ;;
  *"-m pytest"*) exit "$(cat "$FOLDER/pytest_status" 2>/dev/null || echo 0)" ;;
esac
"""
# Stands for the machine's python3: makes a .venv whose python is the stub above.
PYTHON3_STUB = """#!/bin/sh
case "$*" in
  "-m venv .venv")
    echo venv >>"$FOLDER/log"
    [ ! -e "$FOLDER/no_venv" ] || { mkdir -p .venv; exit 1; }
    mkdir -p .venv/bin && cp "$FOLDER/python" .venv/bin/python ;;
  *) exec "${OLD_PYTHON:-$REAL_PYTHON}" "$@" ;;
esac
"""


class Machine:
    """A copy of the scripts in a folder with a space in its name, and the stubs."""

    def __init__(self, tmp_path):
        self.folder = tmp_path / "stubs"
        self.root = tmp_path / "the repository"
        self.elsewhere = tmp_path / "else where"
        (self.root / "modules").mkdir(parents=True)
        self.elsewhere.mkdir()
        for name in ("scripts", ".ci"):
            shutil.copytree(ROOT / name, self.root / name)
        for path in [*ROOT.glob("*.sh"), *ROOT.glob("*.txt")]:
            shutil.copy(path, self.root)
        self.write("python", PYTHON_STUB)
        self.write("bin/python3", PYTHON3_STUB)
        self.write("missing", "")
        self.write("gpus", "0")
        self.environment = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin",
            "FOLDER": str(self.folder),
            "REAL_PYTHON": sys.executable,
        }

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def read(self, name):
        return (self.folder / name).read_text().splitlines()

    def activate(self, variable="VIRTUAL_ENV"):
        path = self.root.parent / "my env"
        (path / "bin").mkdir(parents=True)
        shutil.copy(self.folder / "python", path / "bin")
        self.environment[variable] = str(path)
        return path / "bin" / "python"

    def calls(self, words=""):
        """The arguments of each call of the stubs that holds `words`; the log starts anew."""
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line.rstrip("|").split("|") for line in lines if words in line]

    def run(self, *command, **environment):
        return subprocess.run(
            command,
            cwd=self.elsewhere,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    def script(self, name, *arguments, shell=("sh",), **environment):
        return self.run(*shell, str(self.root / name), *arguments, **environment)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


# --- set_up.sh ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX", "PYTHON"])
def test_an_active_environment_gets_only_what_is_missing(machine, shell, variable):
    python = machine.activate(variable)
    if variable == "PYTHON":
        machine.environment["PYTHON"] = str(python)
    machine.write("missing", "pandas>=2.0\nmoto[server]>=5.0\n")
    result = machine.script("scripts/set_up.sh", shell=shell)
    assert result.returncode == 0, result.stderr
    assert machine.read("pip_requirements") == ["pandas>=2.0", "moto[server]>=5.0"]
    assert machine.read("pip_constraints") == ["torch==2.4.0+cu121", "numpy==1.26.4"]
    assert [call[-1] for call in machine.calls("missing_packages")] == ["requirements.txt"]
    assert "Downloading torch" in result.stderr and "already satisfied" not in result.stderr + result.stdout
    assert not (machine.root / ".venv").exists()


def test_a_virtual_environment_goes_before_condas(machine):
    machine.activate()
    machine.environment["CONDA_PREFIX"] = "/none"
    assert machine.script("scripts/set_up.sh").returncode == 0


def test_an_environment_without_python_is_an_error(machine):
    result = machine.script("scripts/set_up.sh", VIRTUAL_ENV="/none")
    assert result.returncode == 1 and "/none/bin/python" in result.stderr
    assert machine.calls() == []


def test_a_package_that_is_too_old_stops_everything(machine):
    machine.activate()
    machine.write("missing", "pandas>=2.0\n")
    machine.write("missing_status", "1")
    result = machine.script("scripts/set_up.sh")
    assert result.returncode == 1 and "Nothing was changed" in result.stderr
    assert machine.calls("install") == []


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_venv_is_made_once_with_the_tested_versions(machine, shell):
    machine.write("missing", "torch>=2.4\n")
    result = machine.script("scripts/set_up.sh", "requirements-dev.txt", shell=shell)
    assert result.returncode == 0, result.stderr
    assert machine.read("pip_requirements") == (ROOT / "requirements-dev.txt").read_text().splitlines()
    assert machine.read("pip_constraints") == (ROOT / "constraints.txt").read_text().splitlines()
    calls = machine.calls()
    assert calls[0] == ["venv"]
    assert ["scripts/missing_packages.py", "requirements-dev.txt", "constraints.txt"] in calls
    for environment in ({}, {"VIRTUAL_ENV": str(machine.root / ".venv")}, {"CONDA_PREFIX": "", "PYTHON": ""}):
        assert machine.script("scripts/set_up.sh", shell=shell, **environment).returncode == 0
        calls = machine.calls()
        assert ["scripts/missing_packages.py", "requirements.txt", "constraints.txt"] in calls
        assert not [call for call in calls if call == ["venv"] or "install" in call]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_failed_installation_is_an_error_and_goes_on_next_time(machine, shell):
    machine.write("missing", "torch>=2.4\n")
    machine.write("pip_status", "2")
    result = machine.script("scripts/set_up.sh", shell=shell)
    assert result.returncode == 1 and "Without a network" in result.stderr
    machine.write("pip_status", "0")
    machine.calls()
    assert machine.script("scripts/set_up.sh", shell=shell).returncode == 0
    assert len(machine.calls("|install|")) == 1


def test_no_python_or_an_old_one_or_no_venv(machine):
    machine.write("old", "#!/bin/sh\n[ $1 = --version ] && echo Python 3.8.10\nexit 1")
    result = machine.script("scripts/set_up.sh", OLD_PYTHON=str(machine.folder / "old"))
    assert result.returncode == 1 and "python3 is Python 3.8.10" in result.stderr
    assert not (machine.root / ".venv").exists()
    machine.write("no_venv", "")
    result = machine.script("scripts/set_up.sh")
    assert result.returncode == 1 and "python3-venv is missing" in result.stderr
    (machine.folder / "no_venv").unlink()
    assert machine.script("scripts/set_up.sh").returncode == 0
    (machine.folder / "bin" / "python3").unlink()
    shutil.rmtree(machine.root / ".venv")
    bin_folder = machine.folder / "bin"
    for tool in ("sh", "dirname"):
        (bin_folder / tool).symlink_to(shutil.which(tool))
    result = machine.script("scripts/set_up.sh", shell=("/bin/sh",), PATH=str(bin_folder))
    assert result.returncode == 1 and "python3 is not installed" in result.stderr


# --- missing_packages.py -----------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Makes an environment in which exactly these packages are installed; returns the requirements file to ask with."""

    def install(**versions):
        for name, version in versions.items():
            folder = tmp_path / f"{name}-{version}.dist-info"
            folder.mkdir()
            if version:
                (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path)])

    return install


def lines(tmp_path, text, name="requirements.txt"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_what_is_there_is_not_listed(installed, tmp_path):
    installed(torch="2.4.1+cu121", moto="5.0.1", Foo_Bar="1.0", cut_off="")
    file = lines(tmp_path, "torch>=2.4\nmoto[server] >= 5.0  # with a server\n\n# nothing\nfoo-bar\ncut-off\nnone>=1\n")
    assert missing(file) == (["cut-off", "none>=1"], [])


def test_files_within_files(installed, tmp_path):
    installed(a="1.0")
    lines(tmp_path, "a\nb>=2\n", "base.txt")
    assert missing(lines(tmp_path, "-r base.txt\nc\n")) == (["b>=2", "c"], [])


@pytest.mark.parametrize("version", ["2.3.1", "1.13.0+cu117", "2"])
def test_a_package_that_is_too_old_is_no_missing_one(installed, tmp_path, version):
    installed(torch=version)
    file = lines(tmp_path, "torch>=2.4\npandas\n")
    assert missing(file) == (["pandas"], [f"torch {version} is installed, but torch>=2.4 is needed"])


@pytest.mark.parametrize("version", ["2.4", "2.4.0a0+07cecf4168.nv24.5", "2.4.0.post1", "2.10.0", "3.0.0.dev20260101"])
def test_new_enough_versions(installed, tmp_path, version):
    installed(torch=version)
    assert missing(lines(tmp_path, "torch>=2.4\n")) == ([], [])


def test_with_constraints_another_version_counts_as_missing(installed, tmp_path):
    installed(torch="2.13.0+cpu", numpy="2.4.5", pandas="3.0", old="1.0")
    pins = lines(tmp_path, "torch==2.13.0\nNumPy==2.4.6\n", "constraints.txt")
    file = lines(tmp_path, "torch>=2.4\nnumpy>=1.26\npandas\nold>=2\n")
    assert missing(file, pins) == (["numpy>=1.26", "old>=2"], [])


def test_any_opencv_will_do(installed, tmp_path):
    file = lines(tmp_path, "opencv-python-headless>=4.11\n")
    installed()
    assert missing(file)[0] == ["opencv-python-headless>=4.11"]
    installed(opencv_contrib_python="4.12.0.88")
    assert missing(file) == ([], [])


def test_lines_for_other_pythons(installed, tmp_path, monkeypatch):
    installed()
    file = lines(tmp_path, 'new ; python_version >= "3.11"\nall\n')
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    assert missing(file)[0] == ["all"]
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    assert missing(file)[0] == ['new;python_version>="3.11"', "all"]


def test_a_line_that_cannot_be_read(tmp_path):
    with pytest.raises(SystemExit, match="requirements.txt: cannot read the line 'a<2'"):
        missing(lines(tmp_path, "a<2\n"))


def test_the_program_prints_and_fails(tmp_path):
    program = [sys.executable, missing_packages.__file__]
    result = subprocess.run([*program, lines(tmp_path, "pytest\nno-such-thing\n")], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "no-such-thing\n")
    result = subprocess.run([*program, lines(tmp_path, "pytest>=999\n")], capture_output=True, text=True)
    assert result.returncode == 1 and "pytest>=999 is needed" in result.stderr


def test_every_requirement_has_a_tested_version_in_its_range():
    pins = {normalized(match["name"]): match["version"] for _, match in read_lines(ROOT / "constraints.txt")}
    for line, match in read_lines(ROOT / "requirements-dev.txt"):
        assert release(pins[normalized(match["name"])]) >= release(match["version"] or "0"), line
    assert pins["torch"] == "2.13.0" and "torch>=2.4" in (ROOT / "requirements.txt").read_text()


# --- the other scripts -------------------------------------------------------------------------------------------


def test_all_scripts_can_be_read_by_every_shell():
    scripts = [*ROOT.glob("*.sh"), *ROOT.glob("scripts/*.sh")]
    assert len(scripts) >= 10
    for shell in SHELLS:
        for script in scripts:
            assert subprocess.run([*shell, "-n", script]).returncode == 0
    assert subprocess.run(["bash", "-n", ROOT / ".ci" / "run"]).returncode == 0
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("status", ["0", "1", "5"])  # 5: pytest ran no test
def test_pytests_status_is_the_status(machine, status):
    machine.activate()
    machine.write("pytest_status", status)
    assert machine.script("run_tests.sh", "tests/a b.py", "-x").returncode == int(status)
    assert machine.calls("pytest")[-1] == ["-m", "pytest", "tests/a b.py", "-x"]
    assert machine.run("bash", str(machine.root / ".ci" / "run")).returncode == int(status)
    assert machine.calls("pytest")[-1][:4] == ["-m", "pytest", "--numprocesses", "auto"]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("environment", ["active", ".venv", "python3"])
def test_the_gpu_checks_install_nothing_and_take_the_python_that_is_there(machine, shell, environment):
    machine.write("missing", "boto3>=1.34\n")
    machine.write("bin/python3", PYTHON_STUB)
    if environment == "active":
        machine.activate()
    elif environment == ".venv":
        (machine.root / ".venv" / "bin").mkdir(parents=True)
        shutil.copy(machine.folder / "python", machine.root / ".venv" / "bin")
    assert machine.script("run_gpu_checks.sh", shell=shell).returncode == 0
    calls = machine.calls()
    assert calls[-1] == ["-m", "benchmarks.gpu_checks"]
    assert not [call for call in calls if "pip" in call or "venv" in call]


def test_the_gpu_checks_say_what_is_missing_where_there_is_no_python(machine):
    machine.environment["VIRTUAL_ENV"] = "/none"
    result = machine.script("run_gpu_checks.sh")
    assert result.returncode == 1 and "there is no /none/bin/python" in result.stderr


@pytest.mark.parametrize("name", ["annotation_file.py.orig", "patch.rej", ".a.py.swp", "a.py~"])
def test_the_linter_step_refuses_what_tools_leave_behind(machine, name):
    machine.activate()
    (machine.root / "scripts" / name).touch()
    result = machine.script("run_tests.sh")
    assert result.returncode == 1 and f"scripts/{name}" in result.stderr
    assert machine.calls("pytest") == []
    (machine.root / "scripts" / name).unlink()
    (machine.root / "runs").mkdir()  # what a user keeps there is not the repository's
    (machine.root / "runs" / name).touch()
    assert machine.script("run_tests.sh").returncode == 0


@pytest.mark.parametrize("command", ["ruff_check", "ruff_format", "mypy"])
def test_the_linter_and_the_type_checker_can_fail(machine, command):
    machine.activate()
    machine.write(command, "1")
    assert machine.script("run_tests.sh").returncode == 1
    assert machine.calls("pytest") == []


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_demo(machine, shell):
    machine.activate()
    for flags, folder, file in (
        (["--epochs", "1"], "runs/demo", "index.json"),
        (["--output_dir=b", "--output_dir", "a b"], "a b", "progress.json"),
        (["--output_dir", "c"], "c", "mine.txt"),
    ):
        before = machine.root / folder / "index"
        before.mkdir(parents=True)
        (before / file).touch()
        result = machine.script("co_train_demo.sh", *flags, shell=shell)
        assert result.returncode == 0
        demo, train, index = machine.calls()[-3:]
        assert demo == ["-m", "preprocess.make_demo", "--out", "data/demo"]
        assert train[:2] == ["main_task_retrieval.py", "--do_train"] and train[-len(flags) :] == flags
        assert index[:3] == ["-m", "recommend", "index"] and option(index, "--data_path") == "data/demo"
        assert (
            option(index, "--model") == f"{folder}/checkpoint_best.pt" and option(index, "--out") == f"{folder}/index"
        )
        assert result.stdout.endswith(f" -m recommend serve {folder}/index\n")
        assert before.exists() == (file == "mine.txt")


def test_the_demo_s_index_needs_its_training(machine):
    machine.activate()
    machine.write("train", "3")
    assert machine.script("co_train_demo.sh").returncode == 3
    assert machine.calls("recommend") == []


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("text", ["read before", "not read"])
def test_results_on_memecap(machine, shell, text):
    machine.activate()
    (folder := machine.elsewhere / "meme cap").mkdir()
    if text == "read before":
        (folder / "ocr.jsonl").touch()
    result = machine.script("reproduce_memecap.sh", "meme cap", shell=shell)
    assert result.returncode == 0, result.stderr
    calls = machine.calls()
    files = [call[1] for call in calls if call[0] == "scripts/missing_packages.py"]
    assert ("requirements-annotate.txt" in files) == (text == "not read")
    communities = [call for call in calls if call[:2] == ["-m", "preprocess.memecap"]]
    for query, call in zip(("meaning", "title"), communities, strict=True):
        assert call[2:8] == ["--source", str(folder), "--out", f"data/memecap_{query}", "--query", query]
        assert (call[-2:] == ["--ocr", str(folder / "ocr.jsonl")]) == (text == "read before")
    trees = {}
    for call in calls:
        if call[:2] == ["-m", "scripts.reproduce"]:
            args, tokens = to_arguments(call[2:])
            folders = [SimpleNamespace(name=name, datatype="custom", folder=name) for name in args.communities]
            methods = chosen_methods(args.methods)
            trees[args.out.name] = make_runs(folders, methods, args.seeds, args.out, CommonFlags(tokens))
    assert list(trees) == ["caption", "text", "both", "nearest", "emotions"]
    for source in ("caption", "text", "both"):
        readers = [run for run in trees[source] if run.method.name != "drl_wti"]
        assert {run.settings["caption_source"] for run in readers} == {source}


def test_results_on_memecap_need_its_folder_and_end_with_the_first_failure(machine):
    machine.activate()
    result = machine.script("reproduce_memecap.sh", "nowhere")
    assert result.returncode == 2 and "usage" in result.stderr and machine.calls() == []
    machine.write("missing_status", "1")
    assert machine.script("reproduce_memecap.sh", str(machine.elsewhere)).returncode == 1


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize(
    ("flags", "files"),
    [
        ([], []),
        (["--pretrained_clip_name", "small"], ["requirements-small.txt"]),
        (["--pretrained_clip_name=small", "--epochs", "1"], ["requirements-small.txt"]),
        (["--pretrained_clip_name", "pair:test_vit+a b"], ["requirements-pair.txt"]),
        (["--pretrained_clip_name", "hf:a/b"], ["requirements-hf.txt"]),
        (["--pretrained_clip_name", "small", "--pretrained_clip_name", "ViT-tiny/8"], []),
        (["--note", "small"], []),
    ],
    ids=str,
)
def test_what_the_named_towers_need_is_installed(machine, shell, flags, files):
    folder = prepared(machine)
    for script, environment in (("co_train_demo.sh", {}), ("co_train_english_memes.sh", {"DATA_PATH": str(folder)})):
        assert machine.script(script, *flags, shell=shell, **environment).returncode == 0
        asked = [call[-1] for call in machine.calls("missing_packages")]
        assert asked == ["requirements.txt", *files, *(["requirements-serve.txt"] if "demo" in script else [])]
        assert all((ROOT / file).is_file() for file in asked)


def prepared(machine, name="my memes"):
    folder = machine.elsewhere / name
    folder.mkdir()
    for split in ("train", "val", "test"):
        (folder / f"{split}.csv").touch()
    (machine.root / "modules" / "ViT-B-32.pt").touch()
    machine.activate()
    return folder


def option(call, flag):
    return call[call.index(flag) + 1]


def test_six_communities():
    assert [name[len("co_train_") : -len(".sh")] for name in COMMUNITY_SCRIPTS] == [
        "douban_memers",
        "english_memes",
        "humans_love_memes",
        "lets_exchange_memes",
        "nobody_gets_my_memes",
        "recent_popular_memes",
    ]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("script", COMMUNITY_SCRIPTS)
def test_a_community_is_trained_with_the_published_settings(machine, shell, script):
    prepared(machine)
    result = machine.script(script, "--note", "two words", shell=shell, DATA_PATH="my memes")
    assert result.returncode == 0, result.stderr
    assert "no GPU was found" in result.stdout
    call = machine.calls()[-1]
    slug = script[len("co_train_") : -len(".sh")]
    published = {"--pretrained_clip_name": "ViT-B/32", "--batch_size": "128", "--epochs": "4", "--lr": "1e-4"}
    published |= {"--max_words": "32", "--datatype": slug, "--output_dir": f"runs/{slug}", "--note": "two words"}
    published["--data_path"] = str(machine.elsewhere / "my memes")
    assert {flag: option(call, flag) for flag in published} == published
    assert call[:2] == ["main_task_retrieval.py", "--do_train"]


def test_one_process_per_gpu(machine):
    prepared(machine)
    machine.write("gpus", "8")
    for environment, count in (({}, 8), ({"GPUS": "2"}, 2)):
        result = machine.script("co_train_english_memes.sh", DATA_PATH="my memes", **environment)
        assert result.returncode == 0 and "no GPU" not in result.stdout
        call = machine.calls()[-1]
        expected = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={count}",
            "main_task_retrieval.py",
        ]
        assert call[:5] == expected
    machine.script("co_train_english_memes.sh", DATA_PATH="my memes", GPUS="1", OUTPUT_DIR="out")
    call = machine.calls()[-1]
    assert call[0] == "main_task_retrieval.py" and option(call, "--output_dir") == str(machine.elsewhere / "out")
    for wrong in ("0", "all", "-1"):
        result = machine.script("co_train_english_memes.sh", DATA_PATH="my memes", GPUS=wrong)
        assert result.returncode == 1 and f"GPUS={wrong}" in result.stderr


def test_several_machines(machine):
    prepared(machine)
    nodes = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "host", "DATA_PATH": "my memes", "GPUS": "4"}
    assert machine.script("co_train_english_memes.sh", **nodes).returncode == 0
    call = machine.calls()[-1]
    expected = ["--nproc_per_node=4", "--nnodes=2", "--node_rank=1", "--master_addr=host", "--master_port=29500"]
    assert call[2:8] == [*expected, "main_task_retrieval.py"]
    del nodes["MASTER_ADDR"]
    result = machine.script("co_train_english_memes.sh", **nodes)
    assert result.returncode == 1 and "MASTER_ADDR" in result.stderr
    assert machine.calls() == []


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_all_that_is_missing_is_told_before_anything_starts(machine, shell):
    def told(*flags, **environment):
        result = machine.script("co_train_english_memes.sh", *flags, shell=shell, **environment)
        assert result.returncode == 1 and machine.calls() == []
        return result.stderr

    message = told()
    assert "DATA_PATH is not set" in message and "train.csv" in message
    assert "modules/ViT-B-32.pt is missing" in message
    assert re.search(r"set_up.sh && .venv/bin/python -m preprocess.download clip$", message, re.M)
    assert f"{machine.elsewhere}/none (DATA_PATH) is not a folder" in told(DATA_PATH="none")
    folder = prepared(machine)
    (folder / "val.csv").unlink()
    (machine.root / "modules" / "ViT-B-32.pt").unlink()
    message = told(DATA_PATH=str(folder))
    assert re.findall(r"(\S+) is missing", message) == ["memes/val.csv", "repository/modules/ViT-B-32.pt"]
    assert "my env/bin/python -m preprocess.download clip" in message
    assert "ViT-B-32.pt" not in told("--pretrained_clip_name", "ViT-tiny/8", DATA_PATH=str(folder))
    assert "val.csv" not in told("--val_csv", "other.csv", DATA_PATH=str(folder))
    flags = ["--val_csv=other.csv", "--init_model", "checkpoint.pt"]
    result = machine.script("co_train_english_memes.sh", *flags, shell=shell, DATA_PATH=str(folder))
    assert result.returncode == 0, result.stderr


def test_all_requirements_together_install_one_opencv():
    names = {normalized(distribution.metadata["Name"]) for distribution in metadata.distributions()}
    assert len(names & set(missing_packages.OPENCV)) == 1, "each would overwrite the other's cv2"
