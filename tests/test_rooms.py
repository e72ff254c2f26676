"""The import contracts catch what they forbid: a copy of the tree with forbidden imports planted in
every room does not pass.
"""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
NO_TORCH = ("config", "plan", "store", "submit", "analysis", "figures")
NO_RAY = (*NO_TORCH, "cli", "run", "metrics", "train", "models", "datasets", "tasks")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the checkout's packages, to plant imports in."""
    for name in ("phasegrid", "analysis"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, tmp_path / name, symlinks=True, ignore=unwanted)
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


def lint(tree: Path) -> tuple[int, str]:
    code = (
        f"import sys; sys.path.insert(0, {str(tree)!r}); from importlinter.cli import lint_imports;"
        " sys.exit(lint_imports(no_cache=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False
    )
    return done.returncode, re.sub(r"\s+", " ", done.stdout + done.stderr)


def plant(tree: Path, module: str, line: str) -> str:
    path = tree / "phasegrid" / f"{module.replace('.', '/')}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'"""Planted."""\n\n{line}\n')
    return "phasegrid." + module.removesuffix(".__init__")


@pytest.mark.slow
def test_ray_and_torch_planted_in_any_forbidden_room_are_found(tree: Path) -> None:
    planted = [(plant(tree, f"{room}.planted_ray", "import ray"), "ray") for room in NO_RAY]
    planted += [
        (plant(tree, f"{room}.planted_torch", "import torch"), "torch") for room in NO_TORCH
    ]
    planted.append((plant(tree, "metrics.planted.__init__", "import torch"), "torch"))
    code, said = lint(tree)
    assert code != 0
    missed = [(module, what) for module, what in planted if f"{module} -> {what} (l.3)" not in said]
    assert not missed, said


@pytest.mark.slow
def test_a_room_that_imports_from_above_and_one_that_has_no_place_are_found(tree: Path) -> None:
    rooms = ("config", "store", "plan", "figures", "metrics", "tasks", "models", "datasets")
    upward = [plant(tree, f"{room}.planted_up", "import phasegrid.run.loop") for room in rooms]
    plant(tree, "planted_room.__init__", "")
    code, said = lint(tree)
    assert code != 0
    assert not [module for module in upward if module not in said], said
    assert "planted_room" in said


def test_no_module_imports_one_that_imports_it_in_turn_not_even_inside_a_function() -> None:
    imports = import_graph()
    assert len(imports) > 250
    reached = TopologicalSorter(imports)
    reached.prepare()  # raises CycleError, with the modules of the circle


def import_graph() -> dict[str, set[str]]:
    """Return which modules of phasegrid each module imports, at its top or inside a function."""
    paths = {}
    for folder, name in (("phasegrid", "phasegrid"), ("analysis", "phasegrid.analysis")):
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            parts = path.relative_to(CHECKOUT / folder).with_suffix("").parts
            if parts[0] != "analysis":  # the link
                paths[".".join([name, *parts]).removesuffix(".__init__")] = path
    return {module: _imported(path, paths.keys()) - {module} for module, path in paths.items()}


def _imported(path: Path, modules: Collection[str]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in modules else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(modules)
