"""Names lead to declarations: built in, by entry point, or in a file or package of the user's."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from phasegrid import plugin_files, registry
from phasegrid.datasets import DATASETS
from phasegrid.errors import SweepError
from phasegrid.metrics import METRICS
from phasegrid.models import MODELS

PLUGIN = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from phasegrid.declare import Column, DatasetFacts, DatasetKind, Metric, Model


@dataclass(frozen=True)
class Args:
    """Arguments."""

    size: Annotated[int, Field(ge=1)] = 3
    rate: float = 1


def compute(models, data, rng, **args):
    return {}


SHARPNESS = Metric("trial", Args, (Column("sharpness", "float64", "", "doc"),), compute, version=7)
NET = Model(Args, lambda input_shape, num_classes, **args: None, version=2)
DATA = DatasetKind(Args, lambda **args: None, lambda args: DatasetFacts(args["size"] * 10, 5, (2,), 2))
BAD_ARGS = Model(int, compute)
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(plugin_files.FOLDERS_VARIABLE, "")
    path = tmp_path / "my_lab" / "sharpness.py"
    path.parent.mkdir()
    path.write_text(PLUGIN)
    return path


def test_built_in_names_lead_to_their_declarations() -> None:
    for name, model in MODELS.items():
        assert registry.resolve("model", name) is model
    for name, dataset in DATASETS.items():
        assert registry.resolve_dataset(name) is dataset
    for name, metric in METRICS.items():
        assert registry.resolve_metric(name) is metric
    assert registry.resolve_model("mlp") is MODELS["mlp"]


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SweepError, match=r"found model 'resnet81'; allowed: mlp, .*'resnet18'\?"):
        registry.resolve("model", "resnet81")
    with pytest.raises(SweepError, match=r"found metric 'hessain'.*did you mean 'hessian'\?"):
        registry.resolve("metric", "hessain")


def test_a_file_is_found_relative_to_the_sweep(plugin: Path, tmp_path: Path) -> None:
    metric = registry.resolve_metric("my_lab/sharpness.py:SHARPNESS", tmp_path)
    assert (metric.version, metric.over) == (7, "trial")
    assert registry.resolve_metric(f"{plugin}:SHARPNESS") is metric  # imported once
    assert registry.resolve_model("my_lab/sharpness.py:NET", tmp_path).version == 2
    assert registry.resolve_dataset("my_lab/sharpness.py:DATA", tmp_path).version == 1


def test_an_edited_file_is_read_again(plugin: Path, tmp_path: Path) -> None:
    registry.resolve_metric("my_lab/sharpness.py:SHARPNESS", tmp_path)
    plugin.write_text(PLUGIN.replace("version=7", "version=8"))
    assert registry.resolve_metric("my_lab/sharpness.py:SHARPNESS", tmp_path).version == 8


def test_identity_has_no_folders() -> None:
    assert registry.identity("my_lab/sharpness.py:S") == "sharpness.py:S"
    assert registry.identity("/abs/sharpness.py:S") == "sharpness.py:S"
    assert registry.identity("lab.sharpness:S") == "lab.sharpness:S"
    assert registry.identity("mlp") == "mlp"


def test_a_worker_finds_a_file_by_its_identity_alone(plugin: Path) -> None:
    with pytest.raises(SweepError, match=r"there is no file sharpness\.py"):
        registry.resolve_metric("sharpness.py:SHARPNESS")
    plugin_files.remember_folder(plugin.parent)
    plugin_files.remember_folder(plugin.parent)
    assert registry.resolve_metric("sharpness.py:SHARPNESS").version == 7
    code = (
        "from phasegrid.registry import resolve_metric; "
        "print(resolve_metric('sharpness.py:SHARPNESS').version)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "7"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_lab/sharpness.py:SHARPNES", "has no 'SHARPNES'; did you mean 'SHARPNESS'"),
        ("my_lab/sharpness.py:NET", "is of type Model; allowed: a phasegrid.declare.Metric"),
        ("my_lab/sharpness.py:compute", "is of type function; allowed"),
        ("my_lab/sharp.py:X", r"there is no file my_lab/sharp\.py in"),
        ("my_lab/broken.py:X", "cannot be imported: ZeroDivisionError: division by zero"),
        ("my_lab/syntax.py:X", "cannot be imported: SyntaxError"),
        ("my_lab/exits.py:X", "cannot be imported: SystemExit"),
        ("no_such_package.mod:X", "cannot be imported: ModuleNotFoundError"),
        (":X", r"allowed: file\.py:NAME or package\.module:NAME"),
        ("x:", r"allowed: file\.py:NAME or package\.module:NAME"),
        ("..:x", "cannot be imported"),
    ],
)
def test_a_reference_that_leads_nowhere_says_why(
    plugin: Path, tmp_path: Path, name: str, message: str
) -> None:
    (plugin.parent / "broken.py").write_text("1 / 0")
    (plugin.parent / "syntax.py").write_text("def")
    (plugin.parent / "exits.py").write_text("raise SystemExit(3)")
    with pytest.raises(SweepError, match=message):
        registry.resolve_metric(name, tmp_path)


def test_arguments_must_be_a_dataclass(plugin: Path) -> None:
    with pytest.raises(SweepError, match="declares args that are not a dataclass"):
        registry.resolve_model(f"{plugin}:BAD_ARGS")


def test_entry_points_are_known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(group: str) -> list[importlib.metadata.EntryPoint]:
        known = {"theirs": "phasegrid.models:MODELS", "gone": "no_such_package:X"}
        found = [importlib.metadata.EntryPoint(n, v, group) for n, v in known.items()]
        good = importlib.metadata.EntryPoint("good", "phasegrid.metrics.cka:CKA", group)
        return [*found, good] if group == "phasegrid.metrics" else []

    monkeypatch.setattr(registry, "entry_points", points)
    assert registry.resolve_metric("good") is METRICS["cka"]
    assert registry.known_names("metric")[-1] == "good"
    assert "good" not in registry.known_names("model")
    with pytest.raises(SweepError, match=r"metric 'gone' \(no_such_package:X\) cannot be imported"):
        registry.resolve_metric("gone")
    with pytest.raises(SweepError, match="metric 'theirs' is of type dict"):
        registry.resolve_metric("theirs")


def test_built_in_names_import_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from phasegrid.registry import known_names, resolve; "
        "[resolve(k, n) for k in ('model', 'dataset', 'metric') for n in known_names(k)]; "
        "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
