"""The way of a training: distances and errors of its networks, and when they were left."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import phasegrid
from phasegrid.datasets.load import load_dataset
from phasegrid.errors import MetricError, SweepError
from phasegrid.jobs import Part
from phasegrid.metrics.trace.compute import compute
from phasegrid.plan.plan import make_plan
from phasegrid.train.moments import moment_of
from phasegrid.train.recipe import Recipe, Schedule

SWEEP: dict[str, Any] = {
    "schema": 1,
    "name": "way",
    "dataset": {"name": "digits"},
    "model": {"name": "mlp", "width": 4},
    "train": {
        "lr": 0.2,
        "epochs": 4,
        "batch_size": 512,
        "stop": None,
        "keep": "last",
        "schedule": {"name": "cyclic", "cycle_epochs": 2, "low": 0.1},
        "checkpoints": {"at": "lowest_rate", "every_updates": 2},
    },
    "seeds": 1,
    "metrics": [
        {"trace": {"over": "trajectory", "at": "checkpoints"}},
        {"distance": {"over": "trajectory", "at": "checkpoints", "pairs": "from_first"}},
        {"accuracy": {"over": "trajectory", "at": "checkpoints"}},
    ],
}
PLACES = [0, 2, 3, 4, 6, 8, 9, 10, 12]  # 3 updates in an epoch, lowest after 3 and 9


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    done = phasegrid.run(SWEEP, tmp_path_factory.mktemp("way"), serial=True, quiet=True)
    assert done.exit_code == 0
    return done.results


def test_distances_and_errors_are_those_of_the_metrics_of_their_own(results: Any) -> None:
    (row,) = results.metric("trace", sweep="way").to_dict("records")
    apart = results.metric("distance", sweep="way")
    by_place = dict(zip(apart["at"], apart["l2_distance"], strict=True))
    expected = [0.0, *(by_place[f"update-0+update-{update}"] for update in PLACES[1:])]
    assert row["distance"] == pytest.approx(expected)
    quality = results.metric("accuracy", sweep="way").set_index("at")
    for update, loss, error in zip(
        PLACES, row["test_loss"], row["test_error_percent"], strict=True
    ):
        found = quality.loc[f"update-{update}"]
        assert loss == pytest.approx(found["test_loss"])
        assert error == pytest.approx(100 - found["test_accuracy_percent"])
    assert row["mean_step"] == pytest.approx(sum(row["steps"]) / len(row["steps"]))
    assert sum(row["steps"]) >= row["distance"][-1]  # the triangle inequality


def test_the_rate_is_that_of_the_formula_at_the_update_before(results: Any) -> None:
    (row,) = results.metric("trace", sweep="way").to_dict("records")
    assert row["after_epochs"] == pytest.approx([update / 3 for update in PLACES])
    expected = [_alpha(max(update, 1), 6, 0.2, 0.02) for update in PLACES]
    assert row["lr"] == pytest.approx(expected)


def _alpha(i: int, c: int, a1: float, a2: float) -> float:
    """Garipov et al. 2018, section 4.2, word by word."""
    t = ((i - 1) % c + 1) / c
    if 0 < t <= 1 / 2:
        return (1 - 2 * t) * a1 + 2 * t * a2
    return (2 - 2 * t) * a2 + (2 * t - 1) * a1


@pytest.mark.parametrize("c", [2, 4, 10])
def test_the_rate_of_every_update_is_that_of_the_paper(c: int) -> None:
    recipe = Recipe(lr=0.05, epochs=5, schedule=Schedule("cyclic", cycle_updates=c, low=0.01))
    found = [moment_of(recipe, f"weights@update-{i}", 7, None)[1] for i in range(1, 36)]
    assert found == pytest.approx([_alpha(i, c, 0.05, 5e-4) for i in range(1, 36)])


def test_final_weights_are_those_of_the_epoch_at_which_the_training_ended() -> None:
    recipe = Recipe(lr=1.0, epochs=9, schedule=Schedule("step", at_epochs=(3,), factor=0.5))
    assert moment_of(recipe, "weights", 5, 4) == (4.0, 0.5)
    assert moment_of(recipe, "weights@epoch-3", 5, 9) == (3.0, 1.0)
    assert moment_of(recipe, "averaged", 5, None) == (9.0, 0.5)


def test_the_checkpoints_of_a_training_are_all_that_it_leaves() -> None:
    (job, *_) = make_plan(phasegrid.load_sweep(SWEEP)).cells[0].metric_jobs
    assert [one.name for one in job.networks] == [f"weights@update-{u}" for u in PLACES]


def test_one_network_has_no_way() -> None:
    data = load_dataset(Part("digits", 1, {}))
    with pytest.raises(MetricError, match="two networks or more, got 1"):
        compute([nn.Linear(2, 2)], data, torch.Generator(), moments=[(0.0, 0.1)])


def test_equal_networks_are_no_step_apart() -> None:
    data = load_dataset(Part("digits", 1, {}))
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    row = compute([module, module], data, torch.Generator(), moments=[(0.0, 0.1), (1.0, 0.1)])
    assert (row["steps"], row["mean_step"]) == ([0.0], 0.0)
    assert isinstance(row["mean_test_error_percent"], float)
    assert not math.isnan(row["mean_test_error_percent"])


def test_a_trace_alone_is_refused(results: Any) -> None:
    opened = phasegrid.open(results.store.url)
    key = opened.trials()["key"][0]
    with pytest.raises(SweepError, match="reads how the training went"):
        opened.measure("trace", [f"{key}@update-0", key])
