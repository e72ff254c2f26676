"""Laws of doing a pack: what becomes of a training."""

from pathlib import Path

import pytest

from phasegrid import work
from phasegrid.jobs import Plan
from phasegrid.plan import make_packs, make_plan
from phasegrid.store import Store
from phasegrid.sweep import load_sweep
from phasegrid.weights import Evaluation
from phasegrid.work import Place, do

SWEEP = """\
schema: 1
name: tiny
dataset: {name: digits, fraction: 0.05}
model: {name: mlp, width: 2}
train: {epochs: 2, stop: null, batch_size: 16}
seeds: 2
metrics: [accuracy]
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP, encoding="utf-8")
    return make_plan(load_sweep(path))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"), create=True)


def test_finite_weights_that_overflow_when_evaluated_are_a_diverged_training(
    plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "evaluate", lambda *_: Evaluation(float("nan"), 10.0, 90.0, 64))
    train, measure = make_packs(plan, (), lambda _cell, _job: 1.0)
    outcomes = do(train, store, Place("cpu"))
    assert [outcome.status for outcome in outcomes] == ["diverged", "diverged"]
    for row in store.read_table("trials").to_pylist():
        assert row["outcome"] == "diverged"
        assert row["train_loss"] is None
        assert row["diverged_epoch"] == row["kept_epoch"]
    assert {o.status for o in do(measure, store, Place("cpu"))} == {"not_applicable"}


def test_a_trained_pack_says_what_it_scored(plan: Plan, store: Store) -> None:
    train, _ = make_packs(plan, (), lambda _cell, _job: 1.0)
    assert [outcome.status for outcome in do(train, store, Place("cpu"))] == ["done", "done"]
    for row in store.read_table("trials").to_pylist():
        assert (row["task"], row["num_classes"], row["updates_run"]) == ("classification", 10, 10)
        assert row["best_test_loss"] is None  # nothing watched the test set
    assert [outcome.status for outcome in do(train, store, Place("cpu"))] == ["already", "already"]
    assert store.snapshots().epochs(train.trials[0].key) == set()
