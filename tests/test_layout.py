"""Who may import whom: the layout of the repository, held to by its import statements."""

import ast
import graphlib
from pathlib import Path

import pytest

from tests.conftest import ROOT

# What each part may import of ours. What uses a part stands below it: there is no way up.
MAY_IMPORT = {
    "util": set(),
    "pages": set(),
    "metrics": {"util"},
    "dataloaders": {"util"},
    "modules": {"util"},
    "evaluation": {"util", "metrics", "dataloaders", "modules", "engine.distributed"},
    "engine": {"util", "metrics", "dataloaders", "modules", "evaluation"},
    "main_task_retrieval": {"util", "dataloaders", "modules", "engine"},
    "preprocess": {"util", "metrics", "dataloaders", "modules", "evaluation", "engine"},
    "recommend": {
        *("util", "pages", "dataloaders", "modules", "evaluation", "engine"),
        *("preprocess.comparing.near_duplicates", "preprocess.comparing.perceptual_hash"),
        *("preprocess.annotation.annotation_file", "preprocess.annotation.emotion_words"),
        "preprocess.annotation.pictures",
    },
    "benchmarks": {
        *("util", "metrics", "dataloaders", "modules", "evaluation", "engine", "preprocess", "recommend"),
        "main_task_retrieval",
    },
    "scripts": {"util", "pages", "metrics", "dataloaders", "modules", "evaluation", "engine", "preprocess"},
}
OURS = {*MAY_IMPORT, "tests"}
HINTED = (
    "util",
    "pages",
    "metrics",
    "modules",
    "engine",
    "evaluation",
    "dataloaders",
    "recommend",
)  # as in pyproject.toml, [tool.mypy]
EXCEPTION = ("metrics", "evaluation.metrics_command")  # main() alone: `python metrics.py` is what users type


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


FILES = {
    name_of(path): path
    for part in MAY_IMPORT
    for path in ([ROOT / f"{part}.py"] if (ROOT / f"{part}.py").is_file() else (ROOT / part).rglob("*.py"))
}


def imports(path):
    """The files of ours that a file imports, by name, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else node.module for name in inside]
            assert not node.level, f"{path}: a relative import"
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in OURS)


IMPORTS = {
    name: set(imports(path)) - ({EXCEPTION[1]} if name == EXCEPTION[0] else set()) for name, path in FILES.items()
}


def part_of(name):
    return name.partition(".")[0]


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_knows_only_those_that_it_may_know(part):
    assert any(part_of(name) == part for name in FILES)
    for name, imported in IMPORTS.items():
        if part_of(name) == part:
            wrong = {other for other in imported if not {other, part_of(other)} & (MAY_IMPORT[part] | {part})}
            assert not wrong, f"{name} imports {wrong}"


def test_no_circle_between_files():
    list(graphlib.TopologicalSorter(IMPORTS).static_order())  # raises CycleError, which names the circle


def test_distributed_knows_nothing_but_util():
    assert IMPORTS["engine.distributed"] == {"util"}


def test_metrics_needs_the_exception_in_one_place_only():
    tree = ast.parse((ROOT / "metrics.py").read_text(encoding="utf-8"))
    [main] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    importing = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == EXCEPTION[1]]
    assert importing == [node for node in ast.walk(main) if isinstance(node, ast.ImportFrom)]


def test_only_programs_stand_at_the_roots_of_preprocess_and_scripts():
    for folder in ("preprocess", "scripts"):
        for path in (ROOT / folder).glob("*.py"):
            assert path.name == "__init__.py" or 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")


def test_the_model_takes_values_and_no_arguments_object():
    for name, path in FILES.items():
        if part_of(name) == "modules":
            arguments = {
                argument.arg
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.arguments)
                for argument in [*node.posonlyargs, *node.args, *node.kwonlyargs]
            }
            assert "args" not in arguments, name


def test_tests_stand_in_the_folder_of_their_package():
    for path in (ROOT / "tests").glob("*/test_*.py"):
        assert path.parent.name in MAY_IMPORT
        assert Path(ROOT, path.parent.name).is_dir()


def without_hints(tree):
    """(line, name) of each public function and method that lacks a hint; what a function defines is its own affair."""
    for node in ast.iter_child_nodes(tree):
        name = getattr(node, "name", "")
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(node, ast.ClassDef):
            yield from without_hints(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            taken = node.args
            arguments = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, taken.vararg, taken.kwarg]
            hints = [a.annotation for a in arguments if a and a.arg not in ("self", "cls")]
            if None in (hints if name == "__init__" else [*hints, node.returns]):
                yield node.lineno, name


@pytest.mark.parametrize("part", HINTED)
def test_every_public_function_has_hints(part):
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items() if part_of(name) == part}
    assert [(name, *found) for name, tree in trees.items() for found in without_hints(tree)] == []
