"""Measurements of what a training leaves along it: checkpoints by updates, averaged weights."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import phasegrid
from phasegrid.analysis.tables.load import load_grid
from phasegrid.datasets.load import load_dataset
from phasegrid.errors import SweepError
from phasegrid.plan.plan import make_plan

SWEEP: dict[str, Any] = {
    "schema": 1,
    "name": "along",
    "dataset": {"name": "digits"},
    "model": {"name": "mlp"},
    "train": {
        "epochs": 2,
        "batch_size": 256,
        "stop": None,
        "keep": "last",
        "collect": {"name": "swa", "every_updates": 2},
        "checkpoints": {"updates": [3]},
    },
    "load": {"param": "model.width", "values": [2, 4]},
    "seeds": 2,
    "metrics": [
        {"hessian": {"examples": 50}},
        {"hessian": {"examples": 50, "over": "trajectory", "at": ["update-3", "averaged"]}},
        {"accuracy": {"over": "trajectory", "at": "averaged"}},
    ],
}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    done = phasegrid.run(SWEEP, tmp_path_factory.mktemp("along"), serial=True, quiet=True)
    assert done.exit_code == 0
    return done


def test_averaged_weights_are_measured_as_the_network_that_is_left(result: Any) -> None:
    rows = result.results.metric("accuracy", sweep="along")
    assert (len(rows), set(rows["at"])) == (4, {"averaged"})
    (cell,) = make_plan(phasegrid.load_sweep(SWEEP)).cells[:1]
    data = load_dataset(cell.trials[0].dataset)
    opened = phasegrid.open(result.results.store.url)
    for row in rows.to_dict("records"):
        network = opened.model(row["trial_a"], "averaged").double()
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(
                network(data.test_inputs.double()), data.test_labels
            )
        assert row["test_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_rows_tables_and_figures_say_which_weights(result: Any, tmp_path: Path) -> None:
    rows = result.results.metric("hessian", sweep="along")
    assert sorted(rows["at"].fillna("")) == [""] * 4 + ["averaged"] * 4 + ["update-3"] * 4
    by_place = rows.set_index(["trial_a", rows["at"].fillna("")])["lambda_max"]
    assert by_place.is_unique
    grid = load_grid(result.results, "along")
    named = {str(name) for name in grid.values["quantity"] if name.startswith("lambda_max")}
    assert len(named) == 3
    (averaged,) = (name for name in named if "at=averaged" in name)
    assert any("at=update-3" in name for name in named)
    lines = {"lines": {"name": "mean", "quantities": [averaged]}}
    asked = phasegrid.run(
        {**SWEEP, "figures": [lines]}, result.results.store.url, serial=True, quiet=True
    )
    drawn = phasegrid.plot(asked, output=tmp_path)
    assert "at=averaged" in drawn["mean"].axes[0].get_title(loc="left")
    assert list((tmp_path / "tables").glob("lambda_max-*at-averaged*.csv"))
    assert not pd.isna(rows["lambda_max"]).any()
    assert all(math.isfinite(value) for value in rows["lambda_max"])


def test_a_second_run_has_nothing_to_do(result: Any) -> None:
    again = phasegrid.run(SWEEP, result.results.store.url, serial=True, quiet=True)
    assert again.exit_code == 0
    assert again.counts.done == 0


def test_what_reads_measurements_at_several_places_is_told_apart_by_them(tmp_path: Path) -> None:
    lines = {"of": "d", "points": 3, "examples": 50}
    metrics = [{"directions": {"id": "d", "at": ["update-3", "averaged"]}}, {"lines": lines}]
    done = phasegrid.run({**SWEEP, "metrics": metrics}, tmp_path, serial=True, quiet=True)
    rows = done.results.metric("lines", sweep="along")
    assert sorted(rows["at"]) == ["averaged"] * 4 + ["update-3"] * 4
    assert rows.groupby(["cell", "seed_a", "at"])["key"].nunique().eq(1).all()
    grid = load_grid(done.results, "along")
    named = {str(name) for name in grid.values["quantity"] if name.startswith("line_drop[")}
    assert len(named) == 2


@pytest.mark.parametrize(
    ("at", "train", "said"),
    [
        ("averaged", {"collect": None}, "no collector averages the weights of train; add train"),
        (["update-4"], {}, "train publishes no checkpoint after update 4; it publishes 3"),
        (["update-3"], {"checkpoints": None}, "the trials publish no checkpoints by updates"),
        (["update-03"], {}, "found 'update-03'; allowed: epochs from 0"),
        ("mean", {}, "updates, as update-300, averaged, lowest_rate and checkpoints"),
        (["averaged", "averaged"], {}, "found averaged twice"),
        ([], {}, "found an empty list; allowed: epochs from 0"),
        ([2], {}, "the trials publish no checkpoints; add"),
    ],
)
def test_weights_that_no_training_leaves_are_a_mistake_with_its_place(
    at: object, train: dict[str, object], said: str
) -> None:
    metric = {"accuracy": {"over": "trajectory", "at": at}}
    sweep = {**SWEEP, "train": {**SWEEP["train"], **train}, "metrics": [metric]}
    with pytest.raises(SweepError) as found:
        phasegrid.load_sweep(sweep)
    assert said in str(found.value)
    assert "metrics.0.accuracy.at" in str(found.value)


def test_what_a_training_that_stopped_early_never_left_is_not_applicable(tmp_path: Path) -> None:
    stop = {"rule": "plateau", "min_delta": 100.0, "patience": 1}
    train = {
        **SWEEP["train"],
        "epochs": 20,
        "stop": stop,
        "collect": {"name": "swa", "from_epoch": 15},
        "checkpoints": {"updates": [3, 90]},
    }
    at = ["update-3", "update-90", "averaged"]
    metric = {"accuracy": {"over": "trajectory", "at": at}}
    load = {"param": "model.width", "values": [2]}
    sweep = {**SWEEP, "train": train, "load": load, "seeds": 1, "metrics": [metric]}
    done = phasegrid.run(sweep, tmp_path, serial=True, quiet=True)
    found = done.results.metric("accuracy", sweep="along").to_dict("records")
    rows = {row["at"]: (row["outcome"], str(row["reason"])) for row in found}
    assert done.results.trials()["updates_run"].between(3, 89).all()
    assert done.exit_code == 0
    assert (len(rows), rows["update-3"][0]) == (3, "done")
    for place, name in (("update-90", "weights@update-90"), ("averaged", "averaged")):
        outcome, reason = rows[place]
        assert outcome == "not_applicable"
        assert f"left no {name}; it ended after epoch" in reason
