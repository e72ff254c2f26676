"""A model, a data set, an objective, a schedule, a metric and a kind of figure of one's own are one
file each, and have all that built-in ones have: cost, memory, labels, figures.
"""

from pathlib import Path
from typing import Any

import pytest

import phasegrid
from phasegrid.estimates import Guess
from phasegrid.packs import Pack
from phasegrid.plan.cost import guess_cost
from phasegrid.plan.gpu_memory import PROCESS_BYTES, pack_bytes
from phasegrid.plan.plan import make_plan

FILES = {
    "model.py": '''
from dataclasses import dataclass
from torch import nn
from phasegrid.declare import Model, ModelCounts

@dataclass(frozen=True)
class Args:
    hidden: int = 4

def make(input_shape, num_classes, hidden):
    return nn.Sequential(nn.Linear(input_shape[0], hidden), nn.Tanh(), nn.Linear(hidden, num_classes))

def count(facts, hidden):
    wide = facts.input_shape[0] + facts.num_classes
    return ModelCounts(wide * hidden + hidden + facts.num_classes, 2 * wide * hidden, 2 * hidden)

NET = Model(Args, make, count=count)
''',
    "data.py": '''
from dataclasses import dataclass
import torch
from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import DatasetFacts, DatasetKind

@dataclass(frozen=True)
class Args:
    num: int = 40

def part(num, seed):
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num, 2, generator=rng)
    return inputs, (inputs[:, 0] > inputs[:, 1]).long()

def load(num):
    one = torch.ones(1)
    return Dataset("halves", *part(num, 0), *part(20, 1), 2, one, 0 * one)

HALVES = DatasetKind(Args, load, lambda args: DatasetFacts(args["num"], 20, (2,), 2))
''',
    "loss.py": '''
from dataclasses import dataclass
from phasegrid.declare import Objective

@dataclass(frozen=True)
class Args:
    power: float = 2.0

def loss(logits, batch, power):
    p = logits.softmax(-1).gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
    return (1 - p) ** power

LOSS = Objective(Args, loss)
''',
    "rate.py": '''
from dataclasses import dataclass
from phasegrid.declare import ScheduleKind

@dataclass(frozen=True)
class Args:
    depth: float = 0.5

RATE = ScheduleKind(Args, lambda moment, args: 1.0 if moment.done % 2 else args.depth)
''',
    "norm.py": '''
from dataclasses import dataclass
from phasegrid.declare import Column, Metric
from phasegrid.estimates import Guess

@dataclass(frozen=True)
class Args:
    order: float = 2.0

def compute(models, data, rng, order):
    (model,) = models
    return {"norm": sum(float(w.abs().pow(order).sum()) for w in model.parameters())}

NORM = Metric("trial", Args,
              (Column("norm", "float64", "", "size of the weights", label="size", better="lower"),),
              compute, cost=lambda job: Guess(3.0, 4.0), memory=lambda job: 12345)
''',
    "dots.py": '''
from dataclasses import dataclass
from matplotlib.figure import Figure
from phasegrid.declare import FigureKind, Needs

@dataclass(frozen=True)
class Args:
    name: str

def draw(tables, args):
    figure = Figure()
    ax = figure.subplots()
    rows = tables.rows["norm.py:NORM"]
    ax.scatter(rows["load"], rows["norm"])
    return figure

DOTS = FigureKind(Args, draw, needs=lambda args: Needs(rows=("norm.py:NORM",)))
''',
}  # fmt: skip
SWEEP: dict[str, Any] = {
    "schema": 1,
    "name": "mine",
    "dataset": {"name": "data.py:HALVES"},
    "model": {"name": "model.py:NET"},
    "train": {
        "objective": {"name": "loss.py:LOSS"},
        "schedule": {"name": "rate.py:RATE", "depth": 0.25},
        "epochs": 2,
        "batch_size": 10,
        "stop": None,
    },
    "load": {"param": "model.hidden", "values": [2, 4]},
    "temperature": {"param": "train.objective.power", "values": [1.0, 2.0]},
    "seeds": 1,
    "metrics": ["accuracy", "norm.py:NORM"],
    "figures": [{"dots.py:DOTS": {"name": "mine"}}],
}


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)


def test_what_ones_own_files_declare_is_planned_with() -> None:
    plan = make_plan(phasegrid.load_sweep(SWEEP))
    cell = plan.cells[0]
    assert cell.work is not None
    assert (cell.work.num_train, cell.work.num_parameters) == (40, 4 * 2 + 2 + 2)
    (job,) = [job for job in cell.metric_jobs if job.metric.name == "norm.py:NORM"]
    assert guess_cost(cell, job) == Guess(3.0, 4.0)
    pack = Pack("p", "measure", 0, cell.trials, (job,))
    held = 4 * (2 * (40 + 20) + cell.work.num_parameters)
    assert pack_bytes(pack, {cell.trials[0].key: cell.work}) == PROCESS_BYTES + held + 12345


def test_ones_own_files_train_measure_and_draw(tmp_path: Path) -> None:
    result = phasegrid.run(SWEEP, tmp_path / "store", serial=True, quiet=True)
    trials = result.results.trials()
    assert set(trials["objective"]) == {"loss.py:LOSS"}
    assert set(trials["schedule"]) == {"rate.py:RATE"}
    assert (trials["test_loss"] < 1).all()
    drawn = phasegrid.plot(result)
    assert len(drawn["mine"].axes[0].collections[0].get_offsets()) == 4
    titles = [ax.get_title(loc="left") for one in drawn.figures.values() for ax in one.axes]
    assert any("size" in title for title in titles), titles
