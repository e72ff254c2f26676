"""Laws of runs whose packs fill a GPU with trainings of many cells, without one: a stand-in says
that there is a GPU, and the work is done on the CPU.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from phasegrid import load_sweep
from phasegrid.jobs import Trial
from phasegrid.packs import Outcome, Pack
from phasegrid.plan.contents import Plan
from phasegrid.plan.devices import DEVICES
from phasegrid.plan.pack_layout import as_record, from_records, lay_out, shaped
from phasegrid.plan.packing import is_laid_out, make_packs, start_depths
from phasegrid.plan.plan import make_plan
from phasegrid.plan.shaping import PACKS_A_WORKER, fill_gpus
from phasegrid.run import places
from phasegrid.run.places import RunTarget
from phasegrid.run.result import RunResult
from phasegrid.run.run import run_sweep
from phasegrid.run.scheduler import Scheduler
from phasegrid.run.stopping import Stop
from phasegrid.run.worker import training
from phasegrid.store.store import Store
from phasegrid.train.compat import by_kind
from tests.faults.comparing import assert_same_numbers, assert_same_results, keys_of

SWEEP = """\
schema: 1
name: many-cells
dataset: {name: digits, fraction: 0.05}
model: {name: mlp, depth: 1}
train: {batch_size: 16, epochs: 3, stop: null, keep: last}
load: {param: model.width, values: [2, 3, 4, 5]}
temperature: {param: train.lr, values: [0.05, 0.1]}
seeds: 2
metrics: [accuracy, distance]
run: {pack_size: 6}
"""
KINDS = 4
ALONE = "run.reproducible=true"  # no number, nor `pack_size`, depends on the pack


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_own_gpu", lambda _where: DEVICES["h200"])


def do(folder: Path, name: str = "store", *overrides: str, limit: int | None = None) -> RunResult:
    (folder / "cells.yaml").write_text(SWEEP)
    sweep = load_sweep(folder / "cells.yaml", overrides)
    store = Store.open(str(folder / name), create=True)
    where = RunTarget(serial=True, device="cpu", strategy="loop")
    return run_sweep(sweep, store, where, Console(quiet=True), quiet=True, limit=limit)


def plan_of(folder: Path, text: str = SWEEP) -> Plan:
    (folder / "cells.yaml").write_text(text)
    return make_plan(load_sweep(folder / "cells.yaml"))


def one_second(*_: object) -> float:
    return 1.0


def layout_of(storage: Path) -> list[list[str]]:
    records = Store.open(str(storage)).notes.read_layout("many-cells")
    return [list(shape.jobs) for shape in from_records(records)]


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patch:
        patch.setattr(places, "_own_gpu", lambda _where: None)
        do(tmp_path, "cpu", ALONE)
    return tmp_path / "cpu"


@pytest.mark.usefixtures("on_a_gpu")
def test_packs_across_cells_store_what_packs_of_cells_store(tmp_path: Path, cpu: Path) -> None:
    assert do(tmp_path, "store", ALONE).exit_code == 0
    assert [len(jobs) for jobs in layout_of(tmp_path / "store")] == [6, 6, 4]
    assert_same_numbers(tmp_path / "store", cpu)


@pytest.mark.usefixtures("on_a_gpu")
def test_what_is_left_of_a_pack_across_cells_is_done_in_its_layout(tmp_path: Path) -> None:
    do(tmp_path, "whole")
    do(tmp_path, limit=1)
    trained = keys_of(tmp_path / "store", "trials")
    laid_out = layout_of(tmp_path / "store")
    do(tmp_path)
    assert 0 < len(trained) < 16
    assert layout_of(tmp_path / "store") == laid_out == layout_of(tmp_path / "whole")
    assert_same_results(tmp_path / "store", tmp_path / "whole")


@pytest.mark.usefixtures("on_a_gpu")
def test_a_pilot_trains_its_own_cells_and_what_may_share_their_stacks(tmp_path: Path) -> None:
    do(tmp_path, limit=1)
    rows = Store.open(str(tmp_path / "store")).read_table("trials").to_pandas()
    assert rows["model"].nunique() == 1
    assert len(rows["model_args"].unique()) == 1, "networks of one width only"


@pytest.mark.usefixtures("on_a_gpu")
def test_seeds_that_are_added_on_a_gpu_get_packs_of_their_own(tmp_path: Path, cpu: Path) -> None:
    del cpu
    laid_out = layout_of(tmp_path / "cpu")
    do(tmp_path, "cpu", "seeds=3", ALONE)
    found = layout_of(tmp_path / "cpu")
    assert found[: len(laid_out)] == laid_out
    assert sorted(map(len, found[len(laid_out) :])) == [4, 4], "the new seeds of all cells"


def test_a_training_that_two_cells_share_is_in_one_pack(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    first, second, *others = plan.cells
    shared = replace(second, trials=(first.trials[0], *second.trials[1:]), metric_jobs=())
    packs = fill_gpus(make_packs(replace(plan, cells=(first, shared, *others)), (), one_second), 1)
    keys = [trial.key for pack in packs if pack.kind == "train" for trial in pack.trials]
    assert len(set(keys)) == len(keys) == 15


def fails_with(culprit: str) -> object:
    train_pack = training.train_pack

    def fail_with_it(trials: Sequence[Trial], *args: object, **named: object) -> object:
        if any(trial.key == culprit for trial in trials):
            raise RuntimeError("cannot be trained")
        return train_pack(trials, *args, **named)  # type: ignore[arg-type]

    return fail_with_it


@pytest.mark.usefixtures("on_a_gpu")
def test_of_many_cells_only_the_training_that_fails_is_blamed_and_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path)
    culprit = plan.cells[3].trials[1].key
    monkeypatch.setattr(training, "train_pack", fails_with(culprit))
    result = do(tmp_path)
    assert result.exit_code == 1
    store = Store.open(str(tmp_path / "store"))
    failed = [r for r in store.read_table("failures").to_pylist() if r["kind"] == "app"]
    assert [row["key"] for row in failed] == [culprit]
    every = {trial.key for cell in plan.cells for trial in cell.trials}
    assert keys_of(tmp_path / "store", "trials") == every - {culprit}
    about = {job.key for _, job in plan.metric_jobs() if culprit not in job.trials}
    measured = keys_of(tmp_path / "store", "metrics/accuracy") | keys_of(
        tmp_path / "store", "metrics/distance"
    )
    assert measured == about


def calls_until_blamed(packs: Sequence[Pack], culprit: str) -> tuple[list[int], Scheduler]:
    """Do packs whose process crashes if they hold the culprit; return the sizes of lost packs."""
    scheduler, lost = Scheduler(packs, set()), []
    while (pack := scheduler.next_pack()) is not None:
        if culprit in pack.job_keys() and pack.kind == "train":
            lost.append(len(pack.job_keys()))
            scheduler.lost(pack, "its GPU was lost: CUDA error: misaligned address", "crash")
        else:
            scheduler.finished(pack, [Outcome(key, "done") for key in pack.job_keys()])
    return lost, scheduler


def test_a_training_that_loses_the_gpu_is_found_by_halves(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    packs = fill_gpus(make_packs(plan, (), one_second), 1)
    culprit = plan.cells[2].trials[0].key
    lost, scheduler = calls_until_blamed(packs, culprit)
    assert lost == [16, 16, 8, 4, 1]
    failed = {key: why for key, why in scheduler.failures.items() if "blocked" not in why}
    assert list(failed) == [culprit]
    assert "CUDA error: misaligned address" in failed[culprit]
    assert len(by_kind(packs[0].trials)) == KINDS


STAGES = """\
stages: [{name: tune, train: {lr: 0.01}}]
"""


def test_a_training_that_fails_blocks_in_other_cells_nothing_that_starts_from_others(
    tmp_path: Path,
) -> None:
    plan = plan_of(tmp_path, SWEEP + STAGES)
    packs = fill_gpus(make_packs(plan, (), one_second), 1, None, start_depths(plan))
    assert [len(pack.trials) for pack in packs if pack.kind == "train"] == [16, 16]
    culprit = plan.cells[0].trials[0].key
    scheduler = Scheduler(packs, set())
    done: set[str] = set()
    while (pack := scheduler.next_pack()) is not None:
        keys = pack.job_keys()
        done.update(key for key in keys if key != culprit)
        scheduler.finished(
            pack,
            [
                Outcome(k, "failed", error="no") if k == culprit else Outcome(k, "done")
                for k in keys
            ],
        )
    tuned = next(t.key for t in plan.cells[0].trials if culprit in t.needs)
    every = {trial.key for cell in plan.cells for trial in cell.trials}
    assert every - done == {culprit, tuned}


@pytest.mark.usefixtures("on_a_gpu")
def test_a_run_that_is_stopped_within_a_pack_across_cells_goes_on_from_its_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do(tmp_path, "whole")
    stop, epochs = Stop(), []

    def stop_in_the_second_epoch(_self: object, _pack: str, epoch: int, _of: int) -> None:
        epochs.append(epoch)
        if epoch == 2:
            stop.why = "SIGTERM"

    sweep = load_sweep(tmp_path / "cells.yaml")
    store = Store.open(str(tmp_path / "store"), create=True)
    where = RunTarget(serial=True, device="cpu", strategy="loop")
    with monkeypatch.context() as patch:
        patch.setattr("phasegrid.run.underway.Underway.note", stop_in_the_second_epoch)
        result = run_sweep(sweep, store, where, Console(quiet=True), True, None, stop)
    assert result.exit_code != 0
    assert list((tmp_path / "store/snapshots").rglob("*")), "six trainings, half done"
    assert not keys_of(tmp_path / "store", "trials")
    epochs.clear()
    with monkeypatch.context() as patch:
        patch.setattr(
            "phasegrid.run.underway.Underway.note",
            lambda _self, _pack, epoch, _of: epochs.append(epoch),
        )
        do(tmp_path)
    assert epochs[0] == 3, "it goes on"
    assert_same_results(tmp_path / "store", tmp_path / "whole")


CURVES = "metrics=[accuracy, {connectivity: {epochs: 1, pairs: all, points: 3}}]"


def curves_of(packs: Sequence[Pack]) -> list[Pack]:
    return [pack for pack in packs if pack.kind == "measure" and is_laid_out(pack)]


def filled_with_curves(folder: Path, most: int | None = None) -> tuple[Plan, list[Pack]]:
    text = SWEEP.replace("metrics: [accuracy, distance]", CURVES.replace("=", ": ", 1))
    plan = plan_of(folder, text.replace("seeds: 2", "seeds: 3"))
    return plan, fill_gpus(make_packs(plan, (), one_second), 1, most)


def test_curves_of_many_cells_are_one_pack_a_group_for_each_cell(tmp_path: Path) -> None:
    plan, packs = filled_with_curves(tmp_path)
    training = [pack for pack in packs if pack.kind == "train"]
    (curves,) = curves_of(packs)
    assert len(training) == 1
    assert curves.layout is not None
    assert [len(group) for group in curves.layout.groups] == [3] * 8, "three pairs of each cell"
    assert set(curves.needs) == set(training[0].job_keys())
    keys = [job.key for _, job in plan.metric_jobs() if job.metric.name == "connectivity"]
    assert sorted(curves.job_keys()) == sorted(keys)


def test_curves_wait_for_one_pack_of_trainings_where_their_cells_are_whole(tmp_path: Path) -> None:
    _, packs = filled_with_curves(tmp_path, most=6)
    training = [set(pack.job_keys()) for pack in packs if pack.kind == "train"]
    assert len(training) == 4
    for pack in curves_of(packs):
        assert sum(not keys.isdisjoint(pack.needs) for keys in training) == 1


def test_curves_of_many_cells_keep_their_pack_in_the_store(tmp_path: Path) -> None:
    plan, packs = filled_with_curves(tmp_path)
    shapes = lay_out(plan, (), one_second, 1, None, fill_gpus)
    (curves,) = curves_of(packs)
    assert from_records([as_record(shapes)]) == shapes
    for stored in (set(), set(curves.job_keys()[:4])):
        made = make_packs(plan, stored, one_second)
        (found,) = curves_of(shaped(made, shapes, plan, stored, one_second))
        assert found.job_keys() == curves.job_keys()[len(stored) :]
        assert found.layout is not None
        assert found.layout.groups == curves.layout.groups[len(stored) // 3 :]  # type: ignore[union-attr]


def test_curves_that_lose_the_gpu_are_found_by_halves_of_their_cells(tmp_path: Path) -> None:
    _, packs = filled_with_curves(tmp_path)
    (curves,) = curves_of(packs)
    scheduler = Scheduler([curves], curves.needs)
    culprit, lost = curves.job_keys()[7], []
    while (pack := scheduler.next_pack()) is not None:
        if culprit in pack.job_keys():
            lost.append(len(pack.job_keys()))
            scheduler.lost(pack, "its GPU was lost", "crash")
        else:
            scheduler.finished(pack, [Outcome(key, "done") for key in pack.job_keys()])
    assert lost == [24, 24, 12, 1]
    assert list(scheduler.failures) == [culprit]


def test_a_failed_training_blocks_of_many_curves_its_own(tmp_path: Path) -> None:
    _, packs = filled_with_curves(tmp_path)
    (training,) = (pack for pack in packs if pack.kind == "train")
    (curves,) = curves_of(packs)
    culprit = training.job_keys()[4]
    scheduler = Scheduler([training, curves], set())
    assert scheduler.next_pack() == training
    endings = [Outcome(key, "failed" if key == culprit else "done") for key in training.job_keys()]
    scheduler.finished(training, endings)
    left = scheduler.next_pack()
    assert left is not None
    assert len(left.job_keys()) == 24 - 2
    assert all(culprit not in job.trials for job in left.metric_jobs)
    assert left.layout is not None
    assert sorted(len(group) for group in left.layout.groups) == [1, *[3] * 7]


@pytest.mark.usefixtures("on_a_gpu")
def test_curves_of_many_cells_store_what_those_of_one_cell_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(places, "_own_gpu", lambda _where: None)
        do(tmp_path, "cells", CURVES, "seeds=3", "load.values=[2, 3]", "run.pack_size=3")
    do(tmp_path, "store", CURVES, "seeds=3", "load.values=[2, 3]", "run.pack_size=3")
    tables = [
        Store.open(str(tmp_path / name)).read_table("metrics/connectivity").to_pandas()
        for name in ("cells", "store")
    ]
    columns = ["key", "mode_connectivity", "train_loss", "test_error_percent"]
    first, second = (table.sort_values("key")[columns].reset_index(drop=True) for table in tables)
    assert len(first) > 0
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize("gpus", [2, 3])
def test_curves_are_left_for_every_gpu(tmp_path: Path, gpus: int) -> None:
    text = SWEEP.replace("metrics: [accuracy, distance]", CURVES.replace("=", ": ", 1))
    made = make_packs(plan_of(tmp_path, text), (), one_second)
    packs = fill_gpus(made, gpus)
    largest_s = sum(pack.cost_s for pack in made) / (PACKS_A_WORKER * gpus)
    assert len(curves_of(packs)) >= gpus
    for pack in curves_of(packs):
        assert pack.cost_s <= largest_s or len({job.trials[0] for job in pack.metric_jobs}) == 1
