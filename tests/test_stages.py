"""Several trainings of a cell, each from what another has left: from a sweep to its rows."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from test_sweep_mistakes import mistakes, write

import phasegrid
from phasegrid import load_sweep
from phasegrid.analysis.tables.load import load_grid
from phasegrid.jobs import Artifact
from phasegrid.plan.contents import Plan, all_keys
from phasegrid.plan.plan import make_plan
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.run.verify import verify
from phasegrid.store.gc import find_garbage
from phasegrid.store.repair import find_damage
from phasegrid.store.store import Store

CYCLES = """\
schema: 1
name: cycles
dataset: {name: digits}
model: {name: mlp, width: 4}
train: {epochs: 3, stop: null, lr: 0.1, keep: last}
stages:
  - name: cycle
    from: {stage: train, epoch: 2}
    train:
      epochs: 4
      schedule: {name: cyclic, cycle_epochs: 2, low: 0.01}
      checkpoints: {at: lowest_rate}
      collect: {name: swag, at: lowest_rate}
  - {name: tune, optimizer: kept, train: {epochs: 1, lr: 0.01}}
load: {param: model.width, values: [2, 4]}
temperature: {param: stages.cycle.lr, values: [0.05, 0.1]}
seeds: 2
metrics:
  - accuracy: {stage: train}
  - cka: {examples: 32, stage: cycle}
  - cka: {examples: 32}
"""
STAGES = "[{name: on, from: {epoch: 1}}, {name: tune}]"
SETTLED = "{epochs: 2, stop: null}"


def run(sweep: Any, store: Store) -> int:
    where = RunTarget(serial=True, device="cpu")
    console = Console(quiet=True)
    return run_sweep(sweep, store, where, console, quiet=True, limit=None).exit_code


def loaded(folder: Path, text: str = CYCLES) -> Any:
    path = folder / "cycles.yaml"
    path.write_text(text)
    return load_sweep(path)


@pytest.fixture(scope="module")
def cycles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store, Any]:
    folder = tmp_path_factory.mktemp("cycles")
    sweep = loaded(folder)
    store = Store.open(str(folder / "store"), create=True)
    assert run(sweep, store) == 0
    return make_plan(sweep), store, sweep


@pytest.fixture
def own_copy(cycles: tuple[Plan, Store, Any], tmp_path: Path) -> Store:
    """A copy of the store of ``cycles``, for a test that changes it."""
    shutil.copytree(cycles[1].url, tmp_path / "store")
    return Store.open(str(tmp_path / "store"))


def row_of(store: Store, key: str) -> dict[str, Any]:
    (row,) = store.read_table("trials", keys=[key]).to_pylist()
    return row  # type: ignore[no-any-return]


def test_a_stage_starts_from_the_checkpoint_that_the_sweep_names(
    cycles: tuple[Plan, Store, Any],
) -> None:
    plan, store, _ = cycles
    for cell in plan.cells:
        assert cell.stages == {"train": 2, "cycle": 2, "tune": 2}
        first, second, third = (cell.trials_of(stage) for stage in cell.stages)
        for a, b, c in zip(first, second, third, strict=True):
            assert b.start is not None
            assert c.start is not None
            assert b.start.artifact == Artifact(a.key, "weights@epoch-2")
            assert c.start.artifact == Artifact(b.key)
            assert (b.start.optimizer, c.start.optimizer) == ("fresh", "kept")
            row = row_of(store, b.key)
            assert (row["start_job"], row["start_artifact"]) == (a.key, "weights@epoch-2")
            assert row["seed"] == a.seed == b.seed


def test_cells_that_differ_in_a_stage_only_share_the_training_before(
    cycles: tuple[Plan, Store, Any],
) -> None:
    plan, store, _ = cycles
    distinct = {trial.key for cell in plan.cells for trial in cell.trials}
    assert len(distinct) == 2 * 2 + 2 * (4 * 2)  # first trainings; two more in each of four cells
    assert store.stored("trials") == distinct


def test_rows_name_the_checkpoints_with_their_digests(cycles: tuple[Plan, Store, Any]) -> None:
    plan, store, _ = cycles
    for trial in plan.cells[0].trials_of("cycle"):
        digests = json.loads(row_of(store, trial.key)["artifacts"])
        # 11 updates an epoch: cycles of 22, lowest in their middle
        collected, at = ["averaged", "moments"], ["weights@update-11", "weights@update-33"]
        assert sorted(digests) == [*collected, "optimizer", *at]
        name = f"checkpoints/{trial.key[:2]}/{trial.key}@update-11.safetensors"
        data = store.files.read(name)
        assert digests["weights@update-11"] == hashlib.sha256(data).hexdigest()
    assert verify(store, deep=True) == []


def test_an_averaged_network_is_opened_ready_to_be_used(cycles: tuple[Plan, Store, Any]) -> None:
    plan, store, _ = cycles
    key = plan.cells[0].trials_of("cycle")[0].key
    results = phasegrid.open(store.url)
    points = [results.weights(key, f"weights@update-{update}") for update in (11, 33)]
    for name, value in results.model(key, "averaged").named_parameters():
        assert torch.allclose(value, (points[0][name] + points[1][name]) / 2, atol=1e-6)


def test_what_a_training_left_is_looked_after(
    cycles: tuple[Plan, Store, Any], own_copy: Store, tmp_path: Path
) -> None:
    """Old files that a row names, or that a snapshot will be gone on from, are no garbage; one that
    is missing is told and repaired.
    """
    plan, copy = cycles[0], own_copy
    for path in (tmp_path / "store").rglob("*.safetensors"):
        os.utime(path, (0, 0))
    assert find_garbage(copy).garbage == ()
    key = plan.cells[0].trials_of("cycle")[0].key
    copy.files.delete(f"artifacts/{key[:2]}/{key}.optimizer.safetensors")
    assert [key in problem.where for problem in verify(copy)] == [True]
    assert f"trials/{key[:2]}/{key}.parquet" in {g.name for g in find_damage(copy).garbage}
    copy.files.delete(f"trials/{key[:2]}/{key}.parquet")
    copy.snapshots().save(key, 1, {"w": torch.ones(1)}, None)
    assert key not in " ".join(item.name for item in find_garbage(copy).garbage)


def test_a_stage_begins_where_the_other_training_was(
    cycles: tuple[Plan, Store, Any], own_copy: Store, tmp_path: Path
) -> None:
    """A rate of nearly nothing leaves the weights as they were at the start."""
    plan = cycles[0]
    sweep = loaded(tmp_path, CYCLES.replace("lr: 0.01}}", "lr: 1e-30, weight_decay: 0}}"))
    assert run(sweep, own_copy) == 0
    cell = make_plan(sweep).cells[0]
    for before, after in zip(cell.trials_of("cycle"), cell.trials_of("tune"), strict=True):
        a, b = (own_copy.read_checkpoint(trial.key) for trial in (before, after))
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert plan.cells[0].trials_of("cycle") == cell.trials_of("cycle")


def test_a_run_that_lost_results_does_them_again_to_the_bit(
    cycles: tuple[Plan, Store, Any], own_copy: Store
) -> None:
    plan, store, sweep = cycles
    copy = own_copy
    lost = [t.key for cell in plan.cells for s in ("cycle", "tune") for t in cell.trials_of(s)]
    for key in lost:
        copy.files.delete(f"trials/{key[:2]}/{key}.parquet")
        copy.files.delete(f"checkpoints/{key[:2]}/{key}@update-33.safetensors")
    assert run(sweep, copy) == 0
    for key in lost:
        was, now = row_of(store, key), row_of(copy, key)
        for name in ("artifacts", "checkpoint_sha256", "test_loss"):
            assert was[name] == now[name]


def test_metrics_are_of_the_stage_that_is_asked_for(cycles: tuple[Plan, Store, Any]) -> None:
    plan, store, _ = cycles
    for cell in plan.cells:
        of = {t.key: stage for stage in cell.stages for t in cell.trials_of(stage)}
        found = [(job.metric.name, *{of[key] for key in job.trials}) for job in cell.metric_jobs]
        assert found == [*[("accuracy", "train")] * 2, ("cka", "cycle"), ("cka", "tune")]
    grid = load_grid(phasegrid.open(store.url), "cycles")
    assert set(grid.cells["n_planned"]) == {2}
    names = set(grid.values["quantity"])
    assert "test_loss" in names
    assert {"cka", "cka[examples=32, stage=cycle]"} <= names
    assert len(grid.values[grid.values["quantity"] == "test_loss"]) == 4 * 2


def test_a_training_from_one_that_diverged_is_void_and_names_no_weights(tmp_path: Path) -> None:
    text = CYCLES.replace("lr: 0.1,", "lr: 1e30,").replace("from: {stage: train, epoch: 2}", "")
    sweep = loaded(tmp_path, text)
    store = Store.open(str(tmp_path / "store"), create=True)
    assert run(sweep, store) == 0
    for cell in make_plan(sweep).cells:
        for stage in ("cycle", "tune"):
            for trial in cell.trials_of(stage):
                row = row_of(store, trial.key)
                assert (row["outcome"], row["diverged_epoch"]) == ("diverged", 0)
                assert row["checkpoint_sha256"] is None


def test_the_training_before_a_stage_from_its_end_keeps_its_key(tmp_path: Path) -> None:
    alone = make_plan(load_sweep(write(tmp_path, train=SETTLED)))
    staged = make_plan(load_sweep(write(tmp_path, train=SETTLED, stages="[{name: tune}]")))
    for one, other in zip(alone.cells, staged.cells, strict=True):
        assert other.trials_of("train") == one.trials
        assert one.trials_of() == one.trials


CASES = [
    # sections, path, message
    ({"stages": "3"}, "stages", "found 3; allowed: a list of 1 to 32 stages"),
    ({"stages": "[]"}, "stages", "found 0 stages"),
    ({"stages": "[{name: on, form: train}]"}, "stages.0.form", "did you mean 'from'"),
    ({"stages": "[{train: {lr: 1}}]"}, "stages.0.name", "it is required"),
    ({"stages": "[{name: On}]"}, "stages.0.name", "found 'On'; allowed: 1 to 32 of a-z"),
    ({"stages": "[{name: train}]"}, "stages.0.name", "the name of the first training"),
    ({"stages": "[{name: a}, {name: a}]"}, "stages.1.name", "the name of another stage"),
    ({"stages": "[{name: a, from: b}]"}, "stages.0.from", "a stage before this one: train$"),
    (
        {"stages": "[{name: a, from: {stage: b}}, {name: b, from: a}]"},
        "stages.0.from.stage",
        "cannot start from each other; allowed: train$",
    ),
    ({"stages": "[{name: a, from: a}]"}, "stages.0.from", "cannot start from each other"),
    ({"stages": "[{name: a, from: {epoch: -1}}]"}, "stages.0.from.epoch", "found -1; allowed"),
    (
        {"stages": "[{name: a, from: {epoch: 1, update: 2}}]"},
        "stages.0.from.update",
        "found update beside epoch; write one",
    ),
    (
        {"stages": "[{name: a, from: {seed: 9}}]", "seeds": "[2, 4]"},
        "stages.a.from.seed",
        "found 9; allowed: one of the seeds: 2, 4$",
    ),
    (
        {"stages": "[{name: a, from: {seed: first}}]"},
        "stages.0.from.seed",
        "found 'first'; allowed: one of the seeds",
    ),
    (
        {
            "train": SETTLED,
            "stages": "[{name: a}]",
            "temperature": "{param: stages.a.from.epoch, values: [1, 3]}",
        },
        "stages.a.from.epoch",
        r"found epoch 3, which train never reaches; allowed: at most 2 \(in the cell",
    ),
    (
        {
            "train": SETTLED,
            "stages": "[{name: a}]",
            "temperature": "{param: stages.a.from.epoch, values: [0.5]}",
        },
        "temperature.values.0",
        "found 0.5; allowed: an integer|integer",
    ),
    (
        {
            "train": SETTLED,
            "stages": "[{name: a, from: {update: 2}}]",
            "temperature": "{param: stages.a.from.epoch, values: [1]}",
        },
        "stages.a.from.epoch",
        "found epoch-1 beside update 2; write one",
    ),
    (
        {
            "train": SETTLED,
            "stages": "[{name: a}]",
            "couple": "{stages.a.from.epoch: train.epochs}",
        },
        "couple.stages.a.from.epoch",
        "the start of a stage cannot be tied; allowed: a value of the stage, or an axis",
    ),
    (
        {"stages": "[{name: a}]", "temperature": "{param: stages.a.from.epochs, values: [1]}"},
        "temperature.param",
        "did you mean 'epoch'",
    ),
    ({"stages": "[{name: a, optimizer: old}]"}, "stages.0.optimizer", "allowed: fresh, kept"),
    (
        {"train": SETTLED, "stages": "[{name: a, optimizer: kept, train: {optimizer: adam}}]"},
        "stages.a.from",
        "train has sgd and this stage adam; allowed: one optimizer in both, or fresh",
    ),
    (
        {"train": SETTLED, "stages": "[{name: a, from: {epoch: 3}}]"},
        "stages.a.from.epoch",
        "found epoch 3, which train never reaches; allowed: at most 2",
    ),
    (
        {"train": "{updates: 9, stop: null}", "stages": "[{name: a, from: {update: 10}}]"},
        "stages.a.from.update",
        "found update 10, which train never reaches; allowed: at most 9",
    ),
    (
        {"train": "{epochs: 9}", "stages": "[{name: a, from: {epoch: 3}}]"},
        "stages.a.from.epoch",
        "whose stop rule may end it earlier; allowed: stop: null in train, or starting from its end",
    ),
    ({"stages": "[{name: a, train: {lr: 0}}]"}, "stages.a.lr", "found 0; allowed: greater than 0"),
    (
        {"stages": "[{name: a, train: {schedule: step}}]"},
        "stages.a.schedule",
        "a step schedule needs at_epochs",
    ),
    (
        {"stages": "[{name: a, train: {batch_size: 5000}}]", "temperature": None},
        "stages.a.batch_size",
        "more than the 1297 training examples",
    ),
    (
        {"stages": "[{name: a}]", "temperature": "{param: stages.b.lr, values: [1]}"},
        "temperature.param",
        "allowed: a field of dataset, model, train or stages.a",
    ),
    (
        {"stages": "[{name: a}]", "metrics": "[accuracy: {stage: b}]"},
        "metrics.0.accuracy.stage",
        "found 'b'; allowed: train, a",
    ),
    ({"metrics": "[accuracy: {stage: b}]"}, "metrics.0.accuracy.stage", "allowed: train$"),
    (
        {"train": "{checkpoints: {every_epoch: 1}}"},
        "train.checkpoints.every_epoch",
        "did you mean 'every_epochs'",
    ),
    ({"train": "{prune: {density: 0}}"}, "train.prune.density", "found 0; allowed: greater than 0"),
    ({"train": "{prune: {density: 1.5}}"}, "train.prune.density", "found 1.5; allowed: at most 1"),
    ({"train": "{prune: {scope: all}}"}, "train.prune.scope", "found 'all'; allowed"),
    ({"train": "{collect: {name: swagger}}"}, "train.collect.name", "did you mean 'swag'"),
    ({"train": "{checkpoints: {at: high}}"}, "train.checkpoints.at", "found 'high'; allowed"),
]


@pytest.mark.parametrize(("sections", "path", "message"), CASES)
def test_a_mistake_is_told_with_its_place(
    tmp_path: Path, sections: dict[str, str | None], path: str, message: str
) -> None:
    found = mistakes(write(tmp_path, **sections))
    told = [mistake for mistake in found if mistake.path == path]
    assert told, found
    assert all(mistake.line and mistake.column for mistake in told)
    assert any(re.search(message, mistake.message) for mistake in told), told


def test_a_field_of_a_stage_is_an_axis_and_can_be_tied(tmp_path: Path) -> None:
    sections = {
        "train": SETTLED,
        "stages": STAGES,
        "temperature": "{param: stages.on.lr, values: [0.1, 0.2]}",
        "couple": "{stages.tune.lr: stages.on.lr / 10}",
    }
    sweep = load_sweep(write(tmp_path, **sections))
    rates = {tuple(r["lr"] for r in point.stage_recipes) for point in sweep.points}
    assert rates == {(0.1, 0.01), (0.2, 0.02)}


PRUNED = """\
schema: 1
name: pruned
dataset: {name: digits}
model: {name: mlp, width: 8}
train: {epochs: 2, stop: null, keep: last}
stages:
  - {name: sparse, train: {prune: {density: 0.5}}}
load: {param: stages.sparse.prune.density, values: [0.1, 0.5, 1.0]}
seeds: 1
"""


def test_density_is_a_load_and_stands_in_the_row(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, PRUNED)
    store = Store.open(str(tmp_path / "store"), create=True)
    assert run(sweep, store) == 0
    for cell in make_plan(sweep).cells:
        (first,), (second,) = cell.trials_of("train"), cell.trials_of("sparse")
        assert row_of(store, first.key)["density"] is None
        row = row_of(store, second.key)
        assert row["prune_density"] == cell.load
        assert row["density"] == pytest.approx(cell.load, abs=0.005)


BRANCHED = """\
schema: 1
name: branched
dataset: {name: digits}
model: {name: mlp, width: 4}
train: {epochs: 3, stop: null, lr: 0.1, keep: last}
stages:
  - {name: child, from: {stage: train, seed: 1}, train: {epochs: 1}}
load: {param: model.width, values: [2, 4]}
temperature: {param: stages.child.from.epoch, values: [0, 2]}
seeds: 3
metrics: [barrier: {points: 3}]
"""


def test_children_start_from_the_checkpoint_of_one_seed_at_the_epoch_of_their_cell(
    tmp_path: Path,
) -> None:
    plan = make_plan(loaded(tmp_path, BRANCHED))
    for cell in plan.cells:
        (parent,) = cell.trials_of("train")
        children = cell.trials_of("child")
        assert (parent.seed, [child.seed for child in children]) == (1, [0, 1, 2])
        place = Artifact(parent.key, f"weights@epoch-{cell.temperature}")
        assert [child.start.artifact for child in children if child.start] == [place] * 3
        assert len({child.stream for child in children} | {parent.stream}) == 4
        assert list(cell.trials) == [parent, *children]


def test_cells_along_the_epoch_of_branching_share_their_parent(tmp_path: Path) -> None:
    plan = make_plan(loaded(tmp_path, BRANCHED))
    parents = {cell.trials_of("train")[0].key for cell in plan.cells}
    assert len(parents) == 2  # one a width
    (recipe,) = {id(t.recipe): t.recipe for t in plan.cells[0].trials_of("train")}.values()
    assert recipe["checkpoints"]["epochs"] == [0, 2]  # type: ignore[index, call-overload]


def test_a_parent_with_checkpoints_at_intervals_is_the_same_for_more_epochs(
    tmp_path: Path,
) -> None:
    dense = BRANCHED.replace("keep: last}", "keep: last, checkpoints: {every_epochs: 1}}", 1)
    few = make_plan(loaded(tmp_path, dense))
    more = make_plan(loaded(tmp_path, dense.replace("[0, 2]", "[0, 1, 2, 3]")))
    assert few.cells[0].trials_of("train") == more.cells[0].trials_of("train")
    assert all_keys(few) < all_keys(more)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("metrics: [", "metrics: [accuracy: {stage: train}, "),
        ("seed: 1}, train", "}, train"),
        (
            "  - {name: child",
            "  - {name: other, from: {epoch: 1}, train: {epochs: 1}}\n  - {name: child",
        ),
    ],
)
def test_parents_of_all_seeds_are_trained_where_something_reads_them(
    tmp_path: Path, old: str, new: str
) -> None:
    assert old in BRANCHED
    for cell in make_plan(loaded(tmp_path, BRANCHED.replace(old, new))).cells:
        assert [trial.seed for trial in cell.trials_of("train")] == [0, 1, 2]


def test_children_of_one_parent_begin_as_one_network_and_part(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, BRANCHED)
    store = Store.open(str(tmp_path / "store"), create=True)
    assert run(sweep, store) == 0
    assert verify(store, deep=True) == []
    rows = phasegrid.open(store.url).metric("barrier", sweep="branched")
    assert len(rows) == 4 * 3
    apart = rows.groupby("temperature")["end_distance"].mean()
    assert 0 < apart[2] < apart[0]  # they had less time to part, at a rate that is the same
