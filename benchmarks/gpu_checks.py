"""Tests and measures IEF on this machine's GPU, in at most six minutes. `sh run_gpu_checks.sh` calls it.

With --table at most twelve rows more, in at most eight minutes: training steps of two models, in all precisions,
compiled or not, in one pass or in pieces.

Each step is a process of its own with a limit: one that fails, hangs or is out of memory does not stop the others. The
table of all figures comes at the end; OUT=folder gets it as gpu_checks.md. Nothing is downloaded. Without a GPU the
steps run on the CPU, with small sizes, and the table says so.
"""

import dataclasses
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from pathlib import Path

from util import Parser, program, write_text

ROOT = Path(__file__).resolve().parents[1]
ALL_SECONDS = 355
TABLE_SECONDS = 475  # after them, with --table
NEEDED = {  # module: package
    **{name: name for name in ("torch", "numpy", "regex", "tqdm")},
    "cv2": "opencv-python-headless",
    "PIL": "Pillow",
}


@dataclasses.dataclass
class Step:
    """A process: `python -m <module> <arguments>`, which writes its figures to the file that its last flag names."""

    name: str
    arguments: list[str]
    seconds: float  # its limit


@dataclasses.dataclass
class Outcome:
    """What became of a step: rows of the table, and what failed, None where nothing did."""

    rows: list[tuple[str, str, str, str]]
    failure: str | None = None


def steps(device):
    """The steps, in the order of what matters most if time runs out."""
    tests = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    # no settings but these: pyproject.toml's may name plugins that are not here
    pytest = ["pytest", "-m", "gpu", *tests, "-o", "addopts=", "-q", "-rs", "-p", "no:cacheprovider", "--junitxml"]
    yield Step("tests marked gpu", pytest, 160)
    small = device != "cuda"
    on = ["--device", device]
    for precision, batch in (("bf16", 128), ("bf16", 512), ("fp32", 128), ("fp32", 512)):
        if not small:
            flags = ["--precision", precision, "--batch_size", str(batch), "--reading_steps", "10", *on, "--json"]
            yield Step(f"training step, {precision}, batch {batch}", ["benchmarks.train_step", *flags], 45)
    if small:
        flags = ["--batch_size", "4", "--repeats", "1", "--reading_steps", "1", "--json"]
        yield Step("training step, fp32, batch 4", ["benchmarks.train_step", *flags], 180)
    flags = ["--queries", "200", "--memes", "500", "--repeats", "1"] if small else []
    yield Step("similarity", ["benchmarks.similarity", *flags, *on, "--json"], 40)
    flags = ["--memes", "2000" if small else "150000", "--duplicates"]
    yield Step("searches", ["benchmarks.recommend", *flags, *on, "--json"], 60)
    flags = ["--queries", "100", "--memes", "5000", "--plain_queries", "4"] if small else []
    yield Step("full size", ["benchmarks.full_size", *flags, *on, "--json"], 120)


def table_steps(device):
    """The steps of --table, each a row. The evaluation, and the share of waiting for data, are rows of `steps`."""
    rows = [
        *((precision, "ViT-B/32", 512) for precision in ("fp32", "tf32", "bf16")),
        ("bf16", "ViT-B/32", 512, "--compile"),
        *((precision, "ViT-L/14", 128) for precision in ("fp32", "tf32", "bf16")),
        ("bf16", "ViT-L/14", 128, "--compile"),
        ("bf16", "ViT-B/32", 2048),
        ("bf16", "ViT-B/32", 2048, "--memory_batch", "256"),
        ("bf16", "ViT-L/14", 2048, "--memory_batch", "128"),
    ]
    if device != "cuda":
        rows = [("fp32", "ViT-B/32", 4), ("bf16", "ViT-B/32", 4, "--memory_batch", "2")]
    for precision, model, batch, *flags in rows:
        flags = ["--model", model, "--precision", precision, "--batch_size", str(batch), *flags]
        yield Step(" ".join(flags), ["benchmarks.one_step", *flags, "--repeats", "3", "--device", device, "--json"], 90)


def run_step(step, left):
    """Run one step in at most its own limit and what is `left` of the time of all."""
    seconds = min(step.seconds, left)
    if seconds < 5:
        return Outcome([(step.name, "not run: the time was used up", "", "")], f"{step.name}: no time was left")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        command = [sys.executable, "-m", *step.arguments, str(results)]
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        try:
            code = process.wait(seconds)
        except BaseException as error:  # a time-out, or Ctrl-C: the processes that the step started end with it
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            code = None
        taken = time.monotonic() - started
        rows = read_results(step, results) if results.is_file() else []
    if code == 0 and rows:
        return Outcome(rows)
    why = f"not done in {seconds:.0f} s" if code is None else f"failed with exit code {code} after {taken:.0f} s"
    return Outcome([*rows, (step.name, f"**{why}**", "", "")], f"{step.name}: {why}")


def read_results(step, path):
    """Rows of the table, from a benchmark's JSON or pytest's XML."""
    text = path.read_text(encoding="utf-8")
    if text.startswith("{"):
        figures = json.loads(text)["figures"]
        return [(each["what"], each["figure"], each["beside"], each["ratio"]) for each in figures]
    suite = next(xml.etree.ElementTree.fromstring(text).iter("testsuite"))
    number = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    bad = number["failures"] + number["errors"]
    passed = number["tests"] - bad - number["skipped"]
    figure = f"{passed} passed, {bad} failed, {number['skipped']} skipped in {float(suite.get('time')):.0f} s"
    return [(step.name, figure, "", "")]


def facts(device):
    """Lines that say what machine and which packages these are."""
    import torch

    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        yield f"Device: {torch.cuda.get_device_name(0)}, {memory:.0f} GiB; CUDA {torch.version.cuda}; {driver()}"
    else:
        yield (
            "**No GPU: torch sees none here.** The steps ran on the CPU, with small sizes, as far as that goes; their "
            "figures say nothing about a GPU."
        )
    yield f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores"
    asked = subprocess.run(
        [sys.executable, "scripts/missing_packages.py", "requirements.txt"], cwd=ROOT, capture_output=True, text=True
    )
    missing = ", ".join(asked.stdout.split()) or "nothing"
    yield f"Missing of requirements.txt: {missing}. {'; '.join(asked.stderr.splitlines())}".strip()


def driver():
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return f"driver {subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.split()[0]}"
    except (OSError, subprocess.TimeoutExpired, IndexError):
        return "driver unknown"


def report(lines, rows, seconds, failures):
    """The report as Markdown."""
    table = ["| | measured | beside it, in the same run | ratio |", "|:--|:--|:--|--:|"]
    table += [f"| {' | '.join(cells)} |" for cells in rows]
    end = [f"{len(failures)} step(s) failed: {'; '.join(failures)}." if failures else "Every step passed."]
    return "\n\n".join([*lines, "\n".join(table), f"{end[0]} {seconds:.0f} s in all.", ""])


def run_all(all_steps, limit):
    """(rows, failures) of these steps, in at most so many seconds together."""
    began = time.monotonic()
    rows, failures = [], []
    for step in all_steps:
        if step.arguments[0] == "pytest" and importlib.util.find_spec("pytest") is None:
            rows.append((step.name, "not run: pytest is not here", "", ""))
            continue
        print(f"\n== {step.name} ({time.monotonic() - began:.0f} of {limit} s)", flush=True)
        outcome = run_step(step, limit - (time.monotonic() - began))
        rows += outcome.rows
        failures += [outcome.failure] if outcome.failure else []
    return rows, failures


@program
def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="then the rows of a table, in at most eight minutes more")
    options = parser.parse_args(argv)
    if absent := [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]:
        sys.exit(f"{sys.executable} lacks {', '.join(absent)}, without which nothing of IEF runs")
    import torch

    began = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lines = list(facts(device))
    print("\n".join(lines), flush=True)
    rows, failures = run_all(steps(device), ALL_SECONDS)
    if options.table:
        more = run_all(table_steps(device), TABLE_SECONDS)
        rows, failures = rows + more[0], failures + more[1]
    text = report(lines, rows, time.monotonic() - began, failures)
    print(f"\n{text}")
    if folder := os.environ.get("OUT"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_text(Path(folder) / "gpu_checks.md", text)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
