"""A metric, a model and a data set of a user's own, one file each, have all that built-in ones
have: planned at their cost, given their share of a GPU, drawn with their label, unit and direction.
"""

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from phasegrid import load_sweep, plugin_files
from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.report.files import write_tables
from phasegrid.analysis.report.findings import Findings, findings
from phasegrid.analysis.report.standard import further_figures
from phasegrid.analysis.stats.gain import best_per_load
from phasegrid.analysis.tables.load import load_grid, open_store
from phasegrid.cli.main import app
from phasegrid.estimates import passes
from phasegrid.plan.cost import guess_cost
from phasegrid.plan.gpu_memory import PROCESS_BYTES, pack_bytes, pack_share
from phasegrid.plan.packing import make_packs
from phasegrid.plan.plan import make_plan

FILES = {
    "blobs.py": '''\
"""Two clouds of points."""
from dataclasses import dataclass
import torch
from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import DatasetFacts, DatasetKind

@dataclass(frozen=True)
class Args:
    apart: float = 2.0

def load(*, apart):
    y = torch.arange(60) % 2
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) + apart * y[:, None]
    zero = torch.zeros(1)
    return Dataset("blobs", x[:40], y[:40], x[40:], y[40:], 2, zero, zero)

BLOBS = DatasetKind(Args, load, lambda args: DatasetFacts(40, 20, (2,), 2))
''',
    "line.py": '''\
"""A linear classifier."""
from dataclasses import dataclass
from torch import nn
from phasegrid.declare import Model
from phasegrid.estimates import ModelCounts

@dataclass(frozen=True)
class Args:
    hidden: int = 3

def make(input_shape, num_classes, *, hidden):
    return nn.Sequential(nn.Linear(input_shape[0], hidden), nn.Linear(hidden, num_classes))

def count(facts, *, hidden):
    size, classes = facts.input_shape[0], facts.num_classes
    weights = hidden * (size + classes)
    return ModelCounts(weights + hidden + classes, 2 * weights, hidden + classes)

LINE = Model(Args, make, count=count)
''',
    "classes.py": '''\
"""The test accuracy of each class; none of networks that are too wide."""
from dataclasses import dataclass
from phasegrid.declare import Column, Metric
from phasegrid.estimates import passes

@dataclass(frozen=True)
class Args:
    narrowest: int = 0

def compute(models, data, rng, narrowest):
    if models[0][0].out_features < narrowest:
        raise ValueError("too narrow\\nfor this")
    right = models[0](data.test_inputs).argmax(dim=1) == data.test_labels
    return [
        {"class": c, "percent": 100 * float(right[data.test_labels == c].float().mean())}
        for c in range(data.num_classes)
    ]

CLASSES = Metric(
    over="trial",
    args=Args,
    compute=compute,
    columns=(
        Column("class", "int64", "", "the class", role="axis"),
        Column("percent", "float64", "%", "accuracy", label="accuracy in class", better="higher"),
    ),
    cost=lambda job: 7 * passes(job.work, job.work.num_test, 20, 1),
    memory=lambda job: 1000 * job.work.num_parameters,
)
''',
}
SWEEP = """\
schema: 1
name: own
dataset: {name: "blobs.py:BLOBS"}
model: {name: "line.py:LINE"}
train: {batch_size: 8, epochs: 1, stop: null}
load: {param: model.hidden, values: [2, 5]}
temperature: {param: train.lr, values: [0.01, 0.1]}
seeds: 2
metrics: ["classes.py:CLASSES"]
"""
NAME = "classes.py:CLASSES.percent"


def invoke(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(args))
    return result.exit_code, result.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(plugin_files.FOLDERS_VARIABLE, "")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "s.yaml").write_text(SWEEP)
    return tmp_path


def run(folder: Path) -> int:
    store = str(folder / "store")
    return invoke("run", str(folder / "s.yaml"), "--storage", store, "--serial", "--no-plot", "-q")[
        0
    ]


def found_in(folder: Path) -> Findings:
    return findings(load_grid(open_store(folder / "store")), Rules())


def test_a_plug_in_is_planned_at_the_cost_and_the_memory_it_declares(folder: Path) -> None:
    plan = make_plan(load_sweep(folder / "s.yaml"))
    cell = plan.cells[0]
    work, job = cell.work, cell.metric_jobs[0]
    assert work is not None
    assert (work.num_parameters, work.forward_flops) == (2 * (2 + 2) + 2 + 2, 2 * 2 * (2 + 2))
    assert guess_cost(cell, job) == 7 * passes(work, 20, 20, 1)
    packs = make_packs(plan, set(), lambda cell, job: guess_cost(cell, job).seconds)
    measuring = next(pack for pack in packs if pack.kind == "measure")
    works = {trial.key: cell.work for cell in plan.cells for trial in cell.trials}
    sizes = [work.num_parameters for key in measuring.needs if (work := works[key])]
    data = 4 * 2 * 60
    assert pack_bytes(measuring, works) == PROCESS_BYTES + data + 4 * sum(sizes) + 1000 * max(sizes)
    assert pack_share(measuring, works, 80 * 2**30) == 1 / 8
    code, said = invoke("plan", str(folder / "s.yaml"), "--storage", str(folder / "store"))
    assert code == 0
    assert "classes.py:CLASSES" in said


def test_a_plug_in_is_drawn_with_its_label_unit_and_direction_without_its_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(folder) == 0
    monkeypatch.setenv(plugin_files.FOLDERS_VARIABLE, "")
    (folder / "classes.py").unlink()
    found = found_in(folder)
    figure = further_figures(found)["further"]()
    titles = [ax.get_title("left").replace("\n", " ") for ax in figure.axes]
    for which in (0, 1):
        assert f"accuracy in class, class={which}" in titles
    bars = {ax.get_ylabel() for ax in figure.axes}
    assert "accuracy in class (%)" in bars
    assert len(best_per_load(found.grid, f"{NAME}[class=0]").table) == 2
    code, said = invoke(
        "plot",
        "--storage",
        str(folder / "store"),
        "--format",
        "svg",
        "--output",
        str(folder / "out"),
    )
    assert code == 0, said
    table = pd.read_csv(folder / "out" / "tables" / "all.csv")
    rows = table[table["quantity"] == f"{NAME}[class=1]"]
    assert set(rows["unit"]) == {"%"}
    assert (rows["status"] == "done").all()
    stored = pd.read_parquet(folder / "store" / "metrics" / "classes.py%3ACLASSES")
    assert rows["value"].mean() == pytest.approx(stored.loc[stored["class"] == 1, "percent"].mean())


def test_a_metric_whose_jobs_all_failed_shows_as_failed(folder: Path) -> None:
    (folder / "s.yaml").write_text(SWEEP.replace('CLASSES"]', 'CLASSES": {narrowest: 9}]'))
    assert run(folder) == 1
    found = found_in(folder)
    rows = found.table[found.table["quantity"] == NAME]
    assert list(rows["status"]) == ["failed"] * 4
    assert list(rows["n_failed"]) == [2] * 4
    assert set(rows["error"]) == {"ValueError: too narrow"}
    (text,) = [
        t.get_text()
        for ax in further_figures(found)["further"]().axes
        for t in ax.texts
        if "job" in t.get_text()
    ]
    assert "4 cells failed" in text
    assert text.replace("\n", " ").endswith("; 8 jobs failed: ValueError: too narrow")
    tables = folder / "tables"
    write_tables(found, tables)
    (table,) = [path for path in tables.glob("*.md") if path.stem.startswith("classes")]
    assert table.read_text().count("failed (2)") == 4


def test_only_the_cells_whose_jobs_failed_show_as_failed(folder: Path) -> None:
    (folder / "s.yaml").write_text(SWEEP.replace('CLASSES"]', 'CLASSES": {narrowest: 3}]'))
    assert run(folder) == 1
    table = found_in(folder).table
    for which in (0, 1):
        rows = table[table["quantity"] == f"{NAME}[class={which}]"]
        assert list(rows["status"]) == ["failed", "failed", "done", "done"]


def test_what_a_failed_training_blocks_shows_as_failed(folder: Path) -> None:
    text = (folder / "line.py").read_text()
    text = text.replace(
        "    return nn", '    if hidden == 5:\n        raise OSError("no file")\n    return nn'
    )
    (folder / "line.py").write_text(text)
    assert run(folder) == 1
    table = found_in(folder).table
    losses = table[table["quantity"] == "train_loss"]
    assert list(losses["status"]) == ["done", "done", "failed", "failed"]
    rows = table[table["quantity"] == f"{NAME}[class=1]"]
    assert list(rows["n_blocked"]) == [0, 0, 2, 2]
    assert set(rows["error"].dropna()) == {"OSError: no file"}
