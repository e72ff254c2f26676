"""What SECURITY.md promises, where no other test holds it."""

import ast
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phasegrid import load_sweep
from phasegrid.cli.main import app
from phasegrid.errors import StoreError, SweepError
from phasegrid.registry import resolve
from phasegrid.store.store import Store

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "phasegrid").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")])
UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "yaml"}
EXECUTORS = {"eval", "exec", "compile", "__import__"}
LOADERS = {
    ("torch", "load"),
    ("torch", "save"),
    ("yaml", "load"),
    ("np", "load"),
    ("pd", "read_pickle"),
}
SAFELY = {
    ("np", "load"): {("allow_pickle", "False")},
    ("torch", "load"): {("weights_only", "True")},
}
SWEEP = """\
schema: 1
name: toy
dataset: {name: digits}
model: {name: mlp}
load: {param: model.width, values: [2]}
"""


def _imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).partition(".")[0])
    return found


def _calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_the_sources_are_found() -> None:
    assert len(SOURCES) > 80


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_unpickles_or_runs_text(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not _imports(tree) & UNPICKLERS
    for call in _calls(tree):
        where = f"{path.name}:{call.lineno}"
        if isinstance(call.func, ast.Name):
            assert call.func.id not in EXECUTORS, where
        if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
            name = (call.func.value.id, call.func.attr)
            keywords = {(k.arg, ast.unparse(k.value)) for k in call.keywords}
            assert name not in LOADERS or keywords & SAFELY.get(name, set()), where


def test_no_module_starts_a_shell() -> None:
    for path in SOURCES:
        for call in _calls(ast.parse(path.read_text(encoding="utf-8"))):
            shell = [k for k in call.keywords if k.arg == "shell"]
            assert not shell, f"{path.name}:{call.lineno}"
            assert ast.unparse(call.func) not in (
                "os.system",
                "os.popen",
            ), f"{path.name}:{call.lineno}"


def test_a_small_file_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    """The "billion laughs": nine lines that stand for a thousand million words."""
    bomb = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    bomb += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(bomb) + "\n")
    with pytest.raises(SweepError, match="more than 100,000 values, counting those that aliases"):
        load_sweep(path)


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [echo]", "!!python/name:os.system"]
)
def test_a_yaml_tag_makes_no_object(tmp_path: Path, tag: str) -> None:
    path = tmp_path / "tag.yaml"
    path.write_text(SWEEP + f"description: {tag}\n")
    with pytest.raises(SweepError, match="tag"):
        load_sweep(path)


@pytest.mark.parametrize("name", ["../up", "a/../../b", "/etc/passwd", "..", "a\\..\\b"])
def test_a_sweep_cannot_name_a_place_outside_the_store(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SWEEP.replace("name: toy", f"name: '{name}'"))
    with pytest.raises(SweepError, match="name"):
        load_sweep(path)


@pytest.mark.parametrize("name", ["../up", "..", "/etc/passwd", "a/b"])
def test_a_store_reads_and_writes_no_name_with_a_path_in_it(tmp_path: Path, name: str) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    for act in (
        lambda: store.put_plan(name, [{"cell": 0, "seed": 0, "key": "a" * 32}]),
        lambda: store.read_plan(name),
        lambda: store.checkpoint_path(name),
        lambda: store.write_log(f"../{name}", "x"),
        lambda: store.notes.read_timing(name),
    ):
        with pytest.raises(StoreError, match=r"cannot name a file|is not a key"):
            act()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_code_in_a_store_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in is looked for beside the sweep, in the folders a sweep's were, and in the current
    one: not in the store.
    """
    store = Store.open(str(tmp_path / "store"), create=True)
    for folder in ("meta", "logs", "tables"):
        (Path(store.files.path(folder))).mkdir(exist_ok=True)
        Path(store.files.path(f"{folder}/evil.py")).write_text("raise SystemExit('imported')\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("PHASEGRID_PLUGIN_PATH", raising=False)
    with pytest.raises(SweepError, match=r"evil\.py"):
        resolve("metric", "evil.py:EVIL", tmp_path / "elsewhere")


LEAKY = """\
from dataclasses import dataclass
import os
from phasegrid.declare import Column, Metric

@dataclass(frozen=True)
class Args:
    pass

def compute(models, data, rng):
    raise RuntimeError("Bearer " + os.environ["RAY_AUTH_TOKEN"] + os.environ["AWS_SECRET_ACCESS_KEY"])

LEAKY = Metric(over="trial", args=Args, columns=(Column("value", "float64", "", ""),), compute=compute)
"""


def test_a_token_in_an_exception_reaches_neither_the_store_nor_the_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {"RAY_AUTH_TOKEN": "token-of-a-cluster", "AWS_SECRET_ACCESS_KEY": "key-of-a-bucket"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "leaky.py").write_text(LEAKY)
    sweep = tmp_path / "toy.yaml"
    text = SWEEP.replace("{name: digits}", "{name: digits, fraction: 0.05}")
    sweep.write_text(
        f"{text}seeds: 1\ntrain: {{epochs: 1, batch_size: 16}}\nmetrics: ['leaky.py:LEAKY']\n"
    )
    storage = tmp_path / "store"
    words = ["run", str(sweep), "--storage", str(storage), "--serial", "--no-plot"]
    done = CliRunner().invoke(app, words)
    told = CliRunner().invoke(
        app, ["logs", "--cell", "0", "--sweep", "toy", "--storage", str(storage)]
    )
    assert done.exit_code == 1
    assert "RuntimeError: Bearer [token][token]" in done.output
    assert "Bearer [token][token]" in told.output
    files = [path for path in storage.rglob("*") if path.is_file()]
    assert files
    for secret in secrets.values():
        assert secret not in done.output + told.output
        assert not [path for path in files if secret.encode() in path.read_bytes()]
    (row,) = Store.open(str(storage)).read_table("failures").to_pylist()
    assert "Bearer [token]" in row["traceback"]


def test_a_storage_with_credentials_is_refused_unseen() -> None:
    with pytest.raises(SweepError, match="the URL holds credentials") as caught:
        Store.open("s3://user:password@bucket/results")
    assert "password" not in str(caught.value)
