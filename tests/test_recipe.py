"""A field that a recipe got later leaves the key of every older trial as it was."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from phasegrid import load_sweep
from phasegrid.config.labels import short_label, shown_labels
from phasegrid.keys import Json
from phasegrid.metrics import METRICS
from phasegrid.plan.contents import plan_hash
from phasegrid.plan.plan import make_plan
from phasegrid.plan.rows import plan_rows
from phasegrid.run.staleness import why_stale
from phasegrid.store.schemas import recipe_columns, trial_columns
from phasegrid.train.recipe import COLLECT_VERSION, LATER, Recipe, hashed_recipe

QUICKSTART = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"
OTHERS: dict[str, Json] = {
    "updates": 100,
    "batch_unit": "tokens",
    "test_every": 1,
    "rmsprop": {"alpha": 0.9, "momentum": 0.0, "eps": 1e-8, "centered": False},
    "sam": {"rho": 0.1, "adaptive": True},
    "clip_norm": 5.0,
    "checkpoints": {"every_epochs": 5},
    "objective": {"name": "mse", "args": {"reduction": "mean"}, "version": 1},
    "prune": {"density": 0.2, "scope": "layer"},
    "collect": {"name": "swag"},
    "accumulate": 4,
}
OF_SCHEDULE: dict[str, Json] = {
    "low": 0.1,
    "cycle_epochs": 2.0,
    "cycle_updates": 10,
    "cycles": 5,
    "growth": 2.0,
    "pieces": [[0.5, 1.0], [0.9, 0.01]],
    "args": {"period": 3},
}


def test_the_plan_of_the_quickstart_is_that_of_the_first_release(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for metrics that give other numbers since."""
    monkeypatch.setitem(METRICS, "simplex", replace(METRICS["simplex"], version=1))
    assert plan_hash(make_plan(load_sweep(QUICKSTART))) == "1195a741cb4ce40a55f3506beae58565"


def test_later_fields_are_left_out_of_the_key_at_their_defaults_only() -> None:
    assert {*OTHERS, "schedule"} == set(LATER)
    assert set(OF_SCHEDULE) == set(LATER["schedule"])
    plain = asdict(Recipe())
    hashed = hashed_recipe(plain)
    assert set(hashed) == set(plain) - set(OTHERS)
    assert hashed["schedule"] == {
        "name": "constant",
        "at_epochs": (),
        "factor": 0.1,
        "final": 0.0,
        "warmup_updates": 0,
    }
    for name, value in OTHERS.items():
        found = hashed_recipe({**plain, name: value})[name]
        expected = {**value, "version": COLLECT_VERSION} if name == "collect" else value  # type: ignore[dict-item]
        assert found == expected
    for name, value in OF_SCHEDULE.items():
        changed = hashed_recipe({**plain, "schedule": {**plain["schedule"], name: value}})
        assert changed["schedule"] == {**hashed["schedule"], name: value}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "change", ["updates=100", "test_every=1", "keep=best_test_loss", "sam={rho: 0.1}"]
)
def test_another_value_of_a_later_field_is_another_trial(change: str) -> None:
    plain = make_plan(load_sweep(QUICKSTART)).cells[0].trials[0]
    other = make_plan(load_sweep(QUICKSTART, [f"train.{change}"])).cells[0].trials[0]
    assert plain.key != other.key


def test_a_trial_stored_before_a_field_existed_differs_only_by_what_changed() -> None:
    old, new = (
        make_plan(load_sweep(QUICKSTART, ["seeds=2", f"train.lr={lr}"])) for lr in (0.05, 0.1)
    )
    stored = {
        trial.key: {**trial_columns(trial), **dict.fromkeys(recipe_columns(LATER))}
        for cell in old.cells
        for trial in cell.trials
    }
    changes = {change for _, change in why_stale(new, plan_rows(old, ""), stored)}
    assert changes == {"lr: 0.05 -> 0.1"}


def test_several_fields_together_are_labelled_by_what_is_unusual() -> None:
    schedule = asdict(Recipe())["schedule"]
    assert short_label("train.schedule", schedule) == "constant"
    warm = {**schedule, "name": "inverse_sqrt", "warmup_updates": 4000}
    assert short_label("train.schedule", warm) == "inverse_sqrt (warmup_updates 4000)"
    stop = asdict(replace(Recipe().stop, patience=9))  # type: ignore[type-var]
    assert short_label("train.stop", stop) == "patience 9"
    assert short_label("train.stop", asdict(Recipe())["stop"]) == "default"
    assert short_label("model.block", {"depth": 2}) == "depth 2"
    values: list[Json] = [None, True, 0.5, "sgd", [1, 2]]
    labels = [short_label("train.lr", value) for value in values]
    assert labels == ["none", "true", "0.5", "sgd", "[1,2]"]


def test_labels_of_blocks_are_short_unless_two_would_look_alike() -> None:
    labels = ['{"name":"mse","reduction":"mean"}', '{"name":"cross_entropy"}', "mse"]
    assert list(shown_labels("train.objective", labels).values()) == [
        "mse (reduction mean)",
        "cross_entropy",
        "mse",
    ]
    alike = ['{"name":"mse"}', "mse", "{not JSON"]
    assert list(shown_labels("train.objective", alike).values()) == alike
