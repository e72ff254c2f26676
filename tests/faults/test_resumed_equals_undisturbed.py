"""Whatever was stored already, a run on a CPU ends with what an undisturbed one stores, bit for
bit.
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from phasegrid import load_sweep
from phasegrid.run import places
from phasegrid.run.executors.base import Serial
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.run.worker import training
from phasegrid.store.store import Store
from tests.faults.comparing import assert_same_numbers, assert_same_results, keys_of

SWEEP = """\
schema: 1
name: stacks
dataset: {name: digits, fraction: 0.05}
model: {name: mlp, depth: 2, width: 4}
train: {batch_size: 8, momentum: 0.9, epochs: 5, stop: {min_delta: 0.03, patience: 1}, keep: best_train_loss}
load: {param: model.width, values: [4]}
temperature: {param: train.lr, values: [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 1.0e+4]}
seeds: 3
metrics: [accuracy, distance, cka: {examples: 32}, connectivity: {epochs: 1, pairs: all, points: 3}]
"""


def do(folder: Path, name: str, *overrides: str, limit: int | None = None) -> Path:
    (folder / "stacks.yaml").write_text(SWEEP)
    sweep = load_sweep(folder / "stacks.yaml", overrides)
    store = Store.open(str(folder / name), create=True)
    where = RunTarget(serial=True, device="cpu")
    run_sweep(sweep, store, where, Console(quiet=True), quiet=True, limit=limit)
    return folder / name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = do(tmp_path_factory.mktemp("undisturbed"), "store")
    trials = Store.open(str(storage)).read_table("trials").to_pandas()
    assert (trials["pack_size"] > 3).any()  # cells are joined
    assert set(trials["strategy"]) == {"fused"}
    assert trials["epochs_run"].nunique() > 2  # members leave their stacks at different times
    assert set(trials["outcome"]) == {"done", "diverged"}
    return storage


def forget(storage: Path, table: str, keys: Sequence[str]) -> None:
    """Delete results as if their files had been lost."""
    folders = ("trials", "histories", "checkpoints") if table == "trials" else (table,)
    for folder in folders:
        for path in (storage / folder).rglob("*"):
            if path.name.split(".")[0] in keys:
                path.unlink()


@pytest.mark.parametrize("seed", range(3))
def test_results_that_were_lost_are_done_again_as_they_were(
    tmp_path: Path, undisturbed: Path, seed: int
) -> None:
    storage = Path(shutil.copytree(undisturbed, tmp_path / "store"))
    draw = random.Random(seed)
    for table in ("trials", "metrics/cka", "metrics/connectivity", "metrics/accuracy"):
        keys = sorted(keys_of(storage, table))
        forget(storage, table, draw.sample(keys, len(keys) // 3))
    do(tmp_path, "store")
    assert_same_results(storage, undisturbed)


def rows_of(storage: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (storage / "trials").rglob("*.parquet")}


def of_table(storage: Path, table: str) -> pd.DataFrame:
    return Store.open(str(storage)).read_table(table).to_pandas().set_index("key")


def test_what_another_sweep_has_stored_changes_no_other_trial(
    tmp_path: Path, undisturbed: Path
) -> None:
    storage = do(
        tmp_path, "store", "name=other", "seeds=[1]", "train.lr=0.1", "temperature=null", "metrics=[]"
    )  # fmt: skip
    shared = keys_of(storage, "trials")
    assert len(shared) == 1
    before = rows_of(storage)
    do(tmp_path, "store")
    assert {path: rows_of(storage)[path] for path in before} == before
    for table in ("trials", "histories"):
        ours, theirs = (
            of_table(s, table).drop(index=list(shared)).sort_index() for s in (storage, undisturbed)
        )
        drop = [c for c in ("created_at", "seconds") if c in ours]
        pd.testing.assert_frame_equal(ours.drop(columns=drop), theirs.drop(columns=drop))


@pytest.fixture
def eight_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    make = places._serial

    def of_eight(*args: object) -> Serial:
        serial = make(*args)  # type: ignore[arg-type]
        serial.parallel = 8
        return serial

    with monkeypatch.context() as patch:
        patch.setattr(places, "_serial", of_eight)
        yield patch


def test_a_run_goes_on_with_fewer_workers_as_it_was_laid_out_for_more(
    tmp_path: Path, undisturbed: Path, eight_workers: pytest.MonkeyPatch
) -> None:
    whole = do(tmp_path, "whole")
    sizes = [set(of_table(s, "trials")["pack_size"]) for s in (whole, undisturbed)]
    assert max(sizes[0]) < max(sizes[1])
    storage = do(tmp_path, "store", limit=2)
    eight_workers.undo()
    do(tmp_path, "store")
    assert_same_results(storage, whole)


def test_a_pilot_is_a_part_of_the_run(tmp_path: Path, undisturbed: Path) -> None:
    storage = do(tmp_path, "store", limit=2)
    assert 0 < len(keys_of(storage, "trials")) < len(keys_of(undisturbed, "trials"))
    do(tmp_path, "store")
    assert_same_results(storage, undisturbed)


def test_a_run_that_stops_after_every_few_results_ends_alike(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    put_trial, put_metric, left = Store.put_trial, Store.put_metric, [0]

    def dying(put):  # type: ignore[no-untyped-def]
        def put_or_die(*args, **kwargs):  # type: ignore[no-untyped-def]
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return put(*args, **kwargs)

        return put_or_die

    monkeypatch.setattr(Store, "put_trial", dying(put_trial))
    monkeypatch.setattr(Store, "put_metric", dying(put_metric))
    draw, deaths = random.Random(0), 0
    while True:
        left[0] = draw.randrange(1, 25)
        try:
            do(tmp_path, "store")
            break
        except Killed:
            deaths += 1
    assert deaths > 3
    assert_same_results(tmp_path / "store", undisturbed)


def test_seeds_that_are_added_change_nothing_that_is_stored_and_train_for_themselves(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Path(shutil.copytree(undisturbed, tmp_path / "store"))
    before = rows_of(storage)
    trained: list[int] = []
    train_pack = training.train_pack

    def counting(trials, *args, **kwargs):  # type: ignore[no-untyped-def]
        trained.extend(trial.seed for trial in trials)
        return train_pack(trials, *args, **kwargs)

    monkeypatch.setattr(training, "train_pack", counting)
    do(tmp_path, "store", "seeds=5", "metrics=[accuracy]")
    assert {path: rows_of(storage)[path] for path in before} == before
    assert set(trained) == {3, 4}  # nobody stands in for seeds of an earlier plan


def test_numbers_of_added_seeds_agree_to_rounding_before_training_amplifies_it(
    tmp_path: Path,
) -> None:
    short = ("train.epochs=1", "metrics=[]")
    at_once = do(tmp_path, "at-once", "seeds=5", *short)
    apart = do(tmp_path, "apart", "seeds=3", *short)
    do(tmp_path, "apart", "seeds=5", *short)
    ours, theirs = (of_table(s, "trials").sort_index() for s in (apart, at_once))
    sound = ours["outcome"] == "done"
    assert sound.any()
    assert list(ours["train_loss"][sound]) == pytest.approx(
        list(theirs["train_loss"][sound]), rel=1e-4
    )


def test_a_layout_of_a_store_that_has_none_is_that_of_the_whole_plan(
    tmp_path: Path, undisturbed: Path
) -> None:
    """As in a store that an older phasegrid has begun."""
    storage = Path(shutil.copytree(undisturbed, tmp_path / "store"))
    shutil.rmtree(storage / "meta/layouts")
    forget(storage, "trials", sorted(keys_of(storage, "trials"))[::4])
    do(tmp_path, "store")
    assert_same_numbers(storage, undisturbed)
