"""Laws of doing a pack: what becomes of a training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from phasegrid import load_sweep
from phasegrid.metrics.connectivity import compute
from phasegrid.models.evaluation import Evaluation
from phasegrid.packs import Layout, Pack
from phasegrid.plan.contents import Plan
from phasegrid.plan.packing import make_packs
from phasegrid.plan.plan import make_plan
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.stopping import Stopped
from phasegrid.run.worker import measuring, trained, turning
from phasegrid.run.worker.pack import do
from phasegrid.store.store import Store
from phasegrid.train.precision import precision_now, tensor_float_32

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
    monkeypatch.setattr(trained, "evaluate", lambda *_: Evaluation(float("nan"), 10.0, 90.0, 64))
    train, measure = make_packs(plan, (), lambda _cell, _job: 1.0)
    outcomes = do(train, store, PackOptions("cpu"))
    assert [outcome.status for outcome in outcomes] == ["diverged", "diverged"]
    for row in store.read_table("trials").to_pylist():
        assert row["outcome"] == "diverged"
        assert row["train_loss"] is None
        assert row["diverged_epoch"] == row["kept_epoch"]
    assert {o.status for o in do(measure, store, PackOptions("cpu"))} == {"not_applicable"}


CURVES = "metrics: [{connectivity: {epochs: 1, pairs: ring, points: 3}}]"


@pytest.fixture
def curve_packs(tmp_path: Path) -> list[Pack]:
    text = SWEEP.replace("metrics: [accuracy]", CURVES).replace("seeds: 2", "seeds: 3")
    path = tmp_path / "curves.yaml"
    path.write_text(text, encoding="utf-8")
    return make_packs(make_plan(load_sweep(path)), (), lambda _cell, _job: 1.0)


def curve_rows(store: Store) -> dict[str, dict[str, Any]]:
    table = store.read_table("metrics/connectivity").to_pylist()
    assert len(table) == 3
    return {row["key"]: row for row in table}


def test_curves_done_together_are_stored_one_by_one_as_those_done_alone(
    curve_packs: list[Pack], tmp_path: Path
) -> None:
    train, measure = curve_packs
    assert len(measure.metric_jobs) == 3
    stores = [Store.open(str(tmp_path / name), create=True) for name in ("packed", "single")]
    for store in stores:
        do(train, store, PackOptions("cpu"))
    outcomes = do(measure, stores[0], PackOptions("cpu"))
    for job in measure.metric_jobs:
        do(replace(measure, metric_jobs=(job,), layout=None), stores[1], PackOptions("cpu"))
    assert [outcome.status for outcome in outcomes] == ["done"] * 3
    packed, single = map(curve_rows, stores)
    for key, row in packed.items():
        assert row["train_loss"] == pytest.approx(single[key]["train_loss"], rel=1e-4)


def test_a_curve_that_is_done_again_is_computed_with_those_that_it_was_done_with(
    curve_packs: list[Pack], store: Store, tmp_path: Path
) -> None:
    train, measure = curve_packs
    do(train, store, PackOptions("cpu"))
    do(measure, store, PackOptions("cpu"))
    before = curve_rows(store)
    (lost, *_) = before
    next((tmp_path / "store/metrics").rglob(f"{lost}.parquet")).unlink()
    (job,) = [job for job in measure.metric_jobs if job.key == lost]
    outcomes = do(replace(measure, metric_jobs=(job,)), store, PackOptions("cpu"))
    assert [(outcome.key, outcome.status) for outcome in outcomes] == [(lost, "done")]
    after = curve_rows(store)
    for name in ("train_loss", "test_loss", "length", "final_curve_loss"):
        assert {key: row[name] for key, row in after.items()} == {
            key: row[name] for key, row in before.items()
        }


@pytest.fixture
def in_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let measurements take turns here, as on a GPU."""
    monkeypatch.setattr(measuring, "can_take_turns", lambda metric, *_: metric.by_turns is not None)


def of_two_cells(packs: list[Pack]) -> tuple[list[Pack], Pack]:
    """Return the training packs, and one pack of the measurements of both cells."""
    one, two = (pack for pack in packs if pack.kind == "measure")
    assert one.layout is not None
    assert two.layout is not None
    groups = (*one.layout.groups, *two.layout.groups)
    both = replace(
        one,
        trials=one.trials + two.trials,
        metric_jobs=one.metric_jobs + two.metric_jobs,
        layout=Layout(groups=groups),
    )
    return [pack for pack in packs if pack.kind == "train"], both


@pytest.fixture
def two_cells(tmp_path: Path) -> tuple[list[Pack], Pack]:
    text = SWEEP.replace("metrics: [accuracy]", CURVES.replace("ring", "first"))
    path = tmp_path / "cells.yaml"
    path.write_text(text + "load: {param: model.width, values: [2, 3]}\n", encoding="utf-8")
    return of_two_cells(make_packs(make_plan(load_sweep(path)), (), lambda _cell, _job: 1.0))


def test_curves_of_several_cells_take_turns_and_are_those_of_each_alone(
    two_cells: tuple[list[Pack], Pack], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    training, measure = two_cells
    stores = [Store.open(str(tmp_path / name), create=True) for name in ("alone", "turns")]
    rows = []
    for store in stores:
        for pack in training:
            do(pack, store, PackOptions("cpu"))
        outcomes = do(measure, store, PackOptions("cpu"))
        assert [outcome.status for outcome in outcomes] == ["done", "done"]
        table = store.read_table("metrics/connectivity").to_pylist()
        rows.append({row["key"]: (row["train_loss"], row["length"]) for row in table})
        request.getfixturevalue("in_lanes")
    assert rows[0] == rows[1]
    assert len(rows[0]) == 2


@pytest.mark.usefixtures("in_lanes")
def test_of_curves_that_take_turns_only_the_one_that_fails_fails(
    two_cells: tuple[list[Pack], Pack], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, measure = two_cells
    for pack in training:
        do(pack, store, PackOptions("cpu"))
    begun, right = [], compute.train_bends

    def breaks(*args: Any) -> Any:
        begun.append(1)
        number = len(begun)
        yield
        if number == 1:
            raise RuntimeError("this curve")
        return (yield from right(*args))

    monkeypatch.setattr(compute, "train_bends", breaks)
    outcomes = do(measure, store, PackOptions("cpu"))
    assert sorted(outcome.status for outcome in outcomes) == ["done", "failed"]
    assert len(begun) == 2


@pytest.mark.usefixtures("in_lanes")
def test_a_stop_lets_curves_that_were_begun_end_and_begins_no_other(
    two_cells: tuple[list[Pack], Pack], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, measure = two_cells
    for pack in training:
        do(pack, store, PackOptions("cpu"))
    asked: list[int] = []

    def third_time() -> bool:
        asked.append(1)
        return len(asked) > 2

    monkeypatch.setattr(turning, "MOST", 1)
    with pytest.raises(Stopped):
        do(measure, store, PackOptions("cpu"), should_stop=third_time)
    assert len(store.read_table("metrics/connectivity")) == 1


@pytest.mark.parametrize("found", ["nothing to gain", "a failure"])
def test_jobs_that_cannot_be_done_together_are_done_one_by_one(
    curve_packs: list[Pack], store: Store, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    def compute_many(*_args: object, **_kwargs: object) -> None:
        if found == "a failure":
            raise RuntimeError("one of them")

    monkeypatch.setattr(compute, "compute_many", compute_many)
    train, measure = curve_packs
    do(train, store, PackOptions("cpu"))
    assert [o.status for o in do(measure, store, PackOptions("cpu"))] == ["done"] * 3
    assert len(curve_rows(store)) == 3


def test_a_stop_is_heard_between_jobs_done_one_by_one(
    curve_packs: list[Pack], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "compute_many", lambda *_args, **_kwargs: None)
    train, measure = curve_packs
    do(train, store, PackOptions("cpu"))

    def stored() -> list[str]:
        return [j.key for j in measure.metric_jobs if store.has("metrics/connectivity", j.key)]

    with pytest.raises(Stopped):
        do(measure, store, PackOptions("cpu"), lambda: len(stored()) == 1)
    assert stored() == [measure.metric_jobs[0].key]


def test_a_trained_pack_says_what_it_scored(plan: Plan, store: Store) -> None:
    train, _ = make_packs(plan, (), lambda _cell, _job: 1.0)
    assert [outcome.status for outcome in do(train, store, PackOptions("cpu"))] == ["done", "done"]
    for row in store.read_table("trials").to_pylist():
        assert (row["task"], row["num_classes"], row["updates_run"]) == ("classification", 10, 10)
        assert row["best_test_loss"] is None  # nothing watched the test set
    assert [outcome.status for outcome in do(train, store, PackOptions("cpu"))] == [
        "already",
        "already",
    ]
    assert store.snapshots().epochs(train.trials[0].key) == set()


def test_rows_of_metrics_say_in_which_precision_they_were_measured(
    store: Store, tmp_path: Path
) -> None:
    ways = (
        "metrics: [accuracy, hessian: {examples: 8, steps: 2}, slice: {points: 3, precision: bf16}]"
    )
    text = SWEEP.replace("metrics: [accuracy]", ways).replace("epochs: 2", "epochs: 1")
    path = tmp_path / "precise.yaml"
    path.write_text(text.replace("train: {", "train: {precision: bf16, "), encoding="utf-8")
    with tensor_float_32(True):
        for pack in make_packs(make_plan(load_sweep(path)), (), lambda _cell, _job: 1.0):
            do(pack, store, PackOptions("cpu"))
    found = {
        metric: {row["measured_in"] for row in store.read_table(f"metrics/{metric}").to_pylist()}
        for metric in ("accuracy", "hessian", "slice")
    }
    assert found == {"accuracy": {"fp32"}, "hessian": {"fp32"}, "slice": {"bf16"}}


def test_a_gpu_that_may_use_tf32_is_said_to() -> None:
    found = []
    for allowed in (True, False):
        with tensor_float_32(allowed):
            found += [precision_now(torch.device(name)) for name in ("cuda", "cpu")]
    assert found == ["tf32", "fp32", "fp32", "fp32"]
