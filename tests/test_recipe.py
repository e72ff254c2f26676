"""A field that a recipe got later leaves the key of every older trial as it was."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from phasegrid import load_sweep
from phasegrid.jobs import Json
from phasegrid.plan.plan import make_plan, plan_hash
from phasegrid.plan.rows import plan_rows, short_label
from phasegrid.run.staleness import why_stale
from phasegrid.store.schemas import trial_columns
from phasegrid.train.recipe import LATER, Recipe, hashed_recipe

QUICKSTART = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"
OTHERS: dict[str, Json] = {
    "updates": 100,
    "batch_unit": "tokens",
    "test_every": 1,
}


def test_the_plan_of_the_quickstart_is_that_of_the_first_release() -> None:
    assert plan_hash(make_plan(load_sweep(QUICKSTART))) == "1195a741cb4ce40a55f3506beae58565"


def test_later_fields_are_left_out_of_the_key_at_their_defaults_only() -> None:
    assert set(OTHERS) == set(LATER)
    plain = asdict(Recipe())
    assert set(hashed_recipe(plain)) == set(plain) - set(LATER)
    for name, value in OTHERS.items():
        assert hashed_recipe({**plain, name: value})[name] == value


@pytest.mark.parametrize("change", ["updates=100", "test_every=1", "keep=best_test_loss"])
def test_another_value_of_a_later_field_is_another_trial(change: str) -> None:
    plain = make_plan(load_sweep(QUICKSTART)).cells[0].trials[0]
    other = make_plan(load_sweep(QUICKSTART, [f"train.{change}"])).cells[0].trials[0]
    assert plain.key != other.key


def test_a_trial_stored_before_a_field_existed_differs_only_by_what_changed() -> None:
    old, new = (
        make_plan(load_sweep(QUICKSTART, ["seeds=2", f"train.lr={lr}"])) for lr in (0.05, 0.1)
    )
    stored = {
        trial.key: {**trial_columns(trial), **dict.fromkeys(LATER)}
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
