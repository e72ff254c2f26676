"""Garbage is found where it is, and nothing that a run may be writing, a plan names, or a reader
needs ever is.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from store_support import COLUMNS, bare, leave, make_store, rows_without_checksum
from typer.testing import CliRunner

from phasegrid.cli.main import app
from phasegrid.errors import StoreError, SweepError
from phasegrid.jobs import Artifact
from phasegrid.keys import text_key
from phasegrid.run.verify import verify
from phasegrid.store import meta as notes
from phasegrid.store.compact import compact
from phasegrid.store.files.base import Entry
from phasegrid.store.files.opening import open_files
from phasegrid.store.gc import GarbageReport, delete_garbage, find_garbage
from phasegrid.store.lost import lost_artifacts
from phasegrid.store.store import Store

DAY_S = 86_400
A, B, C = text_key("a"), text_key("b"), text_key("c")
WANTED, UNWANTED = text_key("wanted"), text_key("unwanted")


def _trial(store: Store, name: str) -> None:
    import torch

    weights = {"w": torch.ones(4)}
    left = leave(store, name, "epoch-1", weights)
    store.put_trial(bare("trials", name), [{"epoch": 0}, {"epoch": 1}], weights, left)


def _metric(store: Store, name: str, *trials: str) -> None:
    common = {**bare("metrics/sharpness", name), "trials": list(trials)}
    store.put_metric("sharpness", COLUMNS, common, [{"value": 1.0}, {"value": 2.0}])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two planned trials, one planned measurement, and their snapshots gone: nothing to collect."""
    store = make_store(tmp_path)
    for name in ("a", "b"):
        _trial(store, name)
    _metric(store, "wanted", A, B)
    store.put_failure(bare("failures", "f"))
    jobs = [{"cell": 0, "metric": "sharpness", "key": WANTED, "trials": [A, B]}]
    store.put_plan("toy", [{"cell": 0, "seed": i, "key": k} for i, k in enumerate((A, B))], jobs)
    return store


def _path(store: Store, name: str) -> Path:
    return Path(store.files.path(name))


def _age(store: Store, days: float, pattern: str = "**/*") -> None:
    then = time.time() - days * DAY_S
    for path in Path(store.files.path("")).glob(pattern):
        if path.is_file():
            os.utime(path, (then, then))


def _names(found: GarbageReport) -> list[str]:
    return [item.name for item in found.garbage]


def _everything(store: Store) -> set[str]:
    return set(store.files.names(""))


def test_a_tidy_store_has_nothing_to_collect(store: Store) -> None:
    _age(store, 30)
    assert find_garbage(store) == GarbageReport(())
    assert find_garbage(store, orphans_too=True) == GarbageReport(())


GARBAGE = {
    "unfinished": f"_tmp/{A}.parquet.{B}",
    "snapshots": f"snapshots/{A[:2]}/{A}.epoch-7.safetensors",
    "older snapshots": f"snapshots/{C}.safetensors",
    "remains": f"checkpoints/{C[:2]}/{C}.epoch-3.safetensors",
    "remains of a history": f"histories/{C[:2]}/{C}.parquet",
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_found_and_goes_alone(store: Store, kind: str) -> None:
    path = _path(store, GARBAGE[kind])
    before = _everything(store)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(b"four")
    _age(store, 1.1)
    found = find_garbage(store)
    assert [(g.name, g.num_bytes) for g in found.garbage] == [(GARBAGE[kind], 4)]
    assert found.garbage[0].kind == kind.removeprefix("older ").removesuffix(" of a history")
    assert path.exists()
    delete_garbage(store, found.garbage)
    assert _everything(store) == before
    delete_garbage(store, found.garbage)  # again: no matter


@pytest.mark.parametrize("kind", GARBAGE)
def test_what_a_run_may_be_writing_is_left_alone(store: Store, kind: str) -> None:
    path = _path(store, GARBAGE[kind])
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(b"four")
    _age(store, 0.9)
    assert not find_garbage(store).garbage
    _age(store, 2.9)
    assert not find_garbage(store, keep_days=3).garbage
    assert find_garbage(store, keep_days=2.5).garbage


def test_a_snapshot_of_a_trial_that_is_not_stored_is_needed(store: Store) -> None:
    store.snapshots().save(C, 5, {}, None)
    _age(store, 30)
    assert not find_garbage(store).garbage


@pytest.mark.parametrize("name", [f"checkpoints/{C[:2]}/{C}@epoch-3.safetensors",
                                  f"artifacts/{C[:2]}/{C}.averaged.safetensors"])  # fmt: skip
def test_what_a_training_under_way_has_published_stays(store: Store, name: str) -> None:
    store.snapshots().save(C, 5, {}, None)
    path = _path(store, name)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(b"four")
    _age(store, 30)
    assert not find_garbage(store).garbage
    for snapshot in Path(store.files.path("snapshots")).rglob("*.safetensors"):
        snapshot.unlink()
    assert _names(find_garbage(store)) == [name], "without its snapshot no training goes on"


def test_only_what_a_row_names_is_lost(store: Store) -> None:
    named, never = Artifact(A, "weights@epoch-1"), Artifact(A, "weights@epoch-2")
    unstored = Artifact(C, "weights")
    assert lost_artifacts(store, [named, never, unstored]) == []
    _path(store, f"checkpoints/{A[:2]}/{A}@epoch-1.safetensors").unlink()
    assert lost_artifacts(store, [named, never, unstored]) == [named]


def test_a_trial_that_only_the_copy_holds_keeps_its_weights(store: Store) -> None:
    compact(store)
    _path(store, f"trials/{A[:2]}/{A}.parquet").unlink()
    _age(store, 30)
    assert not find_garbage(store).garbage


def test_the_clock_of_the_store_decides_where_it_is_behind(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _path(store, GARBAGE["unfinished"]).write_bytes(b"x")
    now = time.time()
    monkeypatch.setattr("phasegrid.store.gc.time.time", lambda: now + 3 * DAY_S)  # ours is wrong
    assert not find_garbage(store).garbage
    _age(store, 1.1)
    monkeypatch.setattr("phasegrid.store.gc.time.time", lambda: now - 3 * DAY_S)
    assert not find_garbage(store).garbage


def test_a_file_of_unknown_age_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    name = GARBAGE["unfinished"].removeprefix("_tmp/")
    monkeypatch.setattr(type(store.files), "entries", lambda *_: [Entry(name, 4, None)])
    assert not find_garbage(store).garbage


@pytest.mark.parametrize("days", [0.5, -1.0, float("nan")])
def test_less_than_a_day_is_refused(store: Store, days: float) -> None:
    with pytest.raises(SweepError, match=r"keep_days is .*; at least 1 is allowed"):
        find_garbage(store, keep_days=days)


def test_a_damaged_copy_stops_everything(store: Store) -> None:
    compact(store)
    _path(store, "tables/trials.parquet").write_bytes(b"")
    _age(store, 30)
    with pytest.raises(StoreError, match="not a whole Parquet file"):
        find_garbage(store)


# --- files that a compacted table holds


def _tables(store: Store) -> dict[str, Any]:
    names = ("trials", "histories", "failures", "metrics/sharpness")
    return {n: store.read_table(n).sort_by(store.read_table(n).column_names[1]) for n in names}


def test_copied_files_go_and_every_row_is_still_read(store: Store) -> None:
    compact(store)
    _age(store, 2)
    before = _tables(store)
    found = find_garbage(store, shards_too=True)
    assert {item.kind for item in found.garbage} == {"copied"}
    assert len(found.garbage) == 2 + 2 + 1 + 1  # trials, histories, failure, measurement
    assert all(item.num_bytes > 0 for item in found.garbage)
    delete_garbage(store, found.garbage)
    assert not [
        n for n in _everything(store) if n.startswith(("trials/", "histories/", "metrics/"))
    ]
    after = _tables(store)
    assert all(after[name].equals(before[name]) for name in before)
    assert store.stored("trials") == {A, B}
    assert verify(store, deep=True) == []
    _trial(store, "c")
    compact(store)
    assert store.stored("trials") == {A, B, C}


def test_copied_files_stay_unless_asked_for(store: Store) -> None:
    compact(store)
    _age(store, 2)
    assert not find_garbage(store).garbage


@pytest.mark.parametrize(
    "what",
    ["plans/toy.parquet", "snapshots/x", "meta/submissions/x.json", f"trials/{A[:2]}/{A}.parquet"],
)
def test_copied_files_stay_while_a_run_may_be_under_way(store: Store, what: str) -> None:
    compact(store)
    _age(store, 2)
    path = _path(store, what)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.touch()
    found = find_garbage(store, shards_too=True)
    assert not found.garbage
    assert "a run may be under way" in found.kept[0]


def test_a_file_whose_copy_has_other_rows_stays(store: Store) -> None:
    compact(store)
    path = _path(store, f"trials/{A[:2]}/{A}.parquet")
    table = rows_without_checksum(path)
    at = table.schema.get_field_index("seed")
    pq.write_table(table.set_column(at, table.schema.field(at), [[5]]), path, store_schema=False)
    _age(store, 2)
    found = find_garbage(store, shards_too=True)
    assert str(path.relative_to(store.files.path(""))) not in _names(found)
    assert found.kept == (f"{path}: the compacted table has other rows for it",)


def test_verify_tells_of_a_copy_that_is_the_only_one(store: Store) -> None:
    compact(store)
    _age(store, 2)
    delete_garbage(store, find_garbage(store, shards_too=True).garbage)
    copy = _path(store, "tables/histories.parquet")
    copy.write_bytes(b"")
    (problem,) = verify(store)
    assert "restore it from a backup" in str(problem)
    copy.unlink()
    (problem,) = verify(store)
    assert str(problem).startswith(f"{copy}: is missing, and its files were deleted")


def test_a_damaged_list_of_collected_tables_is_named(store: Store) -> None:
    _path(store, "meta/collected.json").write_text("5")
    with pytest.raises(StoreError, match=r"collected\.json is damaged"):
        notes.read_collected(store.files)


# --- results of no plan


def test_results_of_no_plan_go_only_when_asked_for(store: Store) -> None:
    before = _everything(store)
    _trial(store, "c")
    _metric(store, "unwanted", A)  # over a planned trial, but asked for by no plan any more
    _metric(store, "other", C)
    store.snapshots().save(text_key("d"), 5, {}, None)
    assert not find_garbage(store, orphans_too=True).garbage  # too young
    _age(store, 2)
    assert not find_garbage(store).garbage
    found = find_garbage(store, orphans_too=True)
    assert len(found.garbage) == 2 + 1 + 1 + 2 + 1
    delete_garbage(store, found.garbage)
    assert _everything(store) == before
    assert verify(store, deep=True) == []


def test_results_of_no_plan_leave_the_copy_too(store: Store) -> None:
    _trial(store, "c")
    _metric(store, "other", C)
    compact(store)
    _path(store, f"trials/{C[:2]}/{C}.parquet").unlink()  # only in the copy
    _age(store, 2)
    delete_garbage(store, find_garbage(store, orphans_too=True).garbage)
    assert store.stored("trials") == {A, B}
    assert set(store.read_table("histories")["key"].to_pylist()) == {A, B}
    assert store.stored("metrics/sharpness") == {WANTED}
    assert store.read_table("metrics/sharpness")["value"].to_pylist() == [1.0, 2.0]
    assert verify(store, deep=True) == []


def test_a_copy_of_nothing_but_unwanted_rows_goes(store: Store) -> None:
    store.put_metric(
        "flatness", COLUMNS, bare("metrics/sharpness", "x") | {"metric": "flatness"}, [{}]
    )
    compact(store)
    _age(store, 2)
    delete_garbage(store, find_garbage(store, orphans_too=True).garbage)
    assert not store.files.exists("tables/metrics.flatness.parquet")
    assert store.stored("metrics/flatness") == set()


def test_both_kinds_together_name_nothing_twice(store: Store) -> None:
    _trial(store, "c")
    compact(store)
    _age(store, 2)
    found = find_garbage(store, shards_too=True, orphans_too=True)
    names = [item.name for item in found.garbage if not item.keys]
    assert len(names) == len(set(names))
    delete_garbage(store, found.garbage)
    assert store.stored("trials") == {A, B}
    assert verify(store, deep=True) == []


def test_a_plan_that_tells_of_no_measurements_keeps_those_over_its_trials(store: Store) -> None:
    _metric(store, "unwanted", A)
    store.put_plan("toy", [{"cell": 0, "seed": i, "key": k} for i, k in enumerate((A, B))])
    assert not store.files.exists("plan_jobs/toy.parquet")
    _age(store, 2)
    assert not find_garbage(store, orphans_too=True).garbage


def test_without_plans_nothing_is_unwanted(store: Store) -> None:
    store.files.delete("plans/toy.parquet")
    _age(store, 2)
    found = find_garbage(store, orphans_too=True)
    assert not found.garbage
    assert "the store has no plans" in found.kept[0]


# --- object stores


def test_object_stores_tell_sizes_and_times() -> None:
    url = f"memory://collecting-{time.time_ns()}"
    store = Store.open(url, create=True)
    store.snapshots().save(A, 1, {}, None)
    store.put_trial(bare("trials", "a"), [], {})
    assert not find_garbage(store).garbage
    memory = fsspec.filesystem("memory")
    then = time.time() - 2 * DAY_S
    for path in memory.find(url.removeprefix("memory:/")):
        memory.store[path].created = memory.store[path].modified = _utc(then)
    found = find_garbage(store)
    assert _names(found) == [f"snapshots/{A[:2]}/{A}.epoch-1.safetensors"]
    assert found.garbage[0].num_bytes > 0
    delete_garbage(store, found.garbage)
    assert store.snapshots().epochs(A) == set()


def _utc(seconds: float) -> Any:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"LastModified": _utc(5.0)}, 5.0),
        ({"mtime": 7}, 7.0),
        ({"updated": "1970-01-01T00:00:09+00:00"}, 9.0),
        ({"created": _utc(3.0).replace(tzinfo=None)}, 3.0),
        ({"LastModified": ""}, None),
        ({}, None),
    ],
)
def test_every_file_systems_word_for_a_time_is_known(info: Any, expected: float | None) -> None:
    from phasegrid.store.files.objects import _time_of

    assert _time_of(info) == expected


def test_what_is_not_there_has_no_entries() -> None:
    assert open_files(f"memory://nothing-{time.time_ns()}").entries("trials") == []


# --- the command


def _invoke(store: Store, *options: str) -> str:
    result = CliRunner().invoke(app, ["gc", "--storage", store.url, *options])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_deletes_nothing_unless_told_to(store: Store) -> None:
    for number in range(7):
        _path(store, f"_tmp/left.{number:032x}").write_bytes(b"x" * 1000)
    _age(store, 2)
    before = _everything(store)
    output = _invoke(store)
    assert "unfinished writes of processes that died: 7 files, 7.0 kB" in output
    assert "and 2 more" in output
    assert "nothing was deleted" in output
    assert _everything(store) == before
    record = json.loads(_invoke(store, "--json"))
    assert record["deleted"] is False
    assert len(record["garbage"]) == 7
    assert "7 files, 7.0 kB: deleted" in _invoke(store, "--delete")
    assert _invoke(store) == "nothing to collect\n"


def test_the_command_tells_of_rows_and_of_what_stays(store: Store) -> None:
    _trial(store, "c")
    compact(store)
    _age(store, 2)
    output = _invoke(store, "--orphans")
    assert "tables/trials.parquet (the rows of 1 keys)" in output
    assert "and the rows of 2 keys in compacted tables" in output
    _path(store, "plans/toy.parquet").touch()
    assert "left alone: files that compacted tables hold" in _invoke(store, "--shards")


def test_the_command_refuses_less_than_a_day(store: Store) -> None:
    result = CliRunner().invoke(app, ["gc", "--storage", store.url, "--keep-days", "0"])
    assert result.exit_code == 2
