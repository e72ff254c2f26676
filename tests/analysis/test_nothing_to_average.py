"""Finished sweeps with nothing to average: figures that say so, and no error."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from phasegrid.analysis.draw.panels import seven_panels
from phasegrid.analysis.phases.phase_map import EVERY_DIVERGED, UNDETERMINED
from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.report.findings import findings
from phasegrid.analysis.stats.gain import best_per_load, gain_table
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.quantities import SEVEN
from phasegrid.cli.main import app
from phasegrid.errors import SweepError

MakeGrid = Callable[..., SweepTables]

SWEEP = """
schema: 1
name: hot
dataset: {{name: npz, path: blobs.npz}}
model: {model}
train: {{optimizer: sgd, epochs: 2, stop: null, batch_size: 16}}
load: {{param: model.width, values: [4]}}
temperature: {{param: train.lr, values: [1.0e30]}}
seeds: {seeds}
metrics: [accuracy, hessian: {{examples: 16}}, cka: {{examples: 16}}]
"""
RAISES = """
from dataclasses import dataclass
from torch import nn
from phasegrid.declare import Model

@dataclass(frozen=True)
class Args:
    width: int = 4

class Fails(nn.Module):
    def __init__(self, size, classes):
        super().__init__()
        self.layer = nn.Linear(size, classes)

    def forward(self, x):
        if len(x) > 8:
            raise RuntimeError("not so many")
        return self.layer(x.flatten(1))

RAISES = Model(Args, lambda shape, classes, **args: Fails(shape[0], classes))
"""
"""A network that works when tried on a few examples, and fails in training."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 48)
    inputs = (rng.standard_normal((48, 4)) + labels[:, None]).astype(np.float32)
    np.savez(
        "blobs.npz",
        train_inputs=inputs,
        train_labels=labels,
        test_inputs=inputs[:12],
        test_labels=labels[:12],
    )
    return tmp_path


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*words, "--storage", "store"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_a_sweep_of_which_every_training_diverged_ends_well(folder: Path) -> None:
    (folder / "hot.yaml").write_text(
        SWEEP.format(model="{name: mlp, depth: 1}", seeds=2), encoding="utf-8"
    )
    code, said = run("run", "hot.yaml", "--serial")
    assert code == 0, said
    assert (folder / "figures/hot/diagram.png").exists()
    phases = pd.read_csv(folder / "figures/hot/phases.csv")
    assert list(phases["reason"]) == [EVERY_DIVERGED]
    trials = pd.concat(map(pd.read_parquet, (folder / "store/trials").rglob("*.parquet")))
    assert list(trials["outcome"]) == ["diverged"] * 2
    assert (trials["diverged_epoch"] == 1).all()
    assert run("run", "hot.yaml", "--serial")[0] == 0
    assert run("plot", "hot")[0] == 0
    code, said = run("compare", "hot", "hot")
    assert code == 0, said
    assert "nothing to compare" in said


def test_a_run_whose_trainings_all_failed_is_no_usage_error(folder: Path) -> None:
    (folder / "net.py").write_text(RAISES, encoding="utf-8")
    (folder / "hot.yaml").write_text(
        SWEEP.format(model='{name: "net.py:RAISES"}', seeds=2), encoding="utf-8"
    )
    code, said = run("run", "hot.yaml", "--serial")
    assert code == 1, said
    assert "no training is stored: nothing to draw" in said


def test_all_cells_are_hatched_where_every_trial_diverged(make_grid: MakeGrid) -> None:
    found = findings(make_grid([["diverged"] * 4] * 4), Rules())
    assert set(found.phases.table["phase"]) == {UNDETERMINED}
    assert set(found.phases.table["reason"]) == {EVERY_DIVERGED}
    figure = seven_panels(found.table, found.phases, found.frame, SEVEN)
    assert len(figure.axes) == 1
    assert sum(bool(patch.get_hatch()) for patch in figure.axes[0].patches) == 16
    assert EVERY_DIVERGED in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_sweep_that_has_not_begun_is_still_refused(make_grid: MakeGrid) -> None:
    with pytest.raises(SweepError, match="has no finished trial"):
        findings(make_grid([[None] * 4] * 4), Rules())


def test_a_single_seed_without_metrics_is_drawn(make_grid: MakeGrid) -> None:
    grid = make_grid(seeds=1)
    values = grid.values[grid.values["quantity"].isin(["train_loss", "test_accuracy"])]
    found = findings(
        SweepTables("g", "model.width", "train.batch_size", grid.cells, values, grid.curves),
        Rules(),
    )
    assert found.table["value"].notna().all()
    assert set(found.phases.table["reason"]) == {"", "not measured: hessian, mc, cka"}


def test_the_gain_of_a_sweep_without_numbers_has_no_rows_of_its_own(make_grid: MakeGrid) -> None:
    nothing = best_per_load(make_grid([["diverged"] * 4] * 4), "test_accuracy")
    assert nothing.table.empty
    table = gain_table(best_per_load(make_grid(), "test_accuracy"), nothing)
    assert len(table) == 4
    assert table["gain"].isna().all()
    assert gain_table(nothing, nothing).empty
