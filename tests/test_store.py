"""What is put into a store is what is read from it, once, whole, and only where it belongs."""

import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from store_support import COLUMNS, bare, full, leave, make_store, put, rows_without_checksum

from phasegrid.declare import Column
from phasegrid.errors import StoreError, SweepError
from phasegrid.jobs import Artifact
from phasegrid.keys import text_key
from phasegrid.store import tables
from phasegrid.store.compact import compact
from phasegrid.store.files import local
from phasegrid.store.files.opening import open_files
from phasegrid.store.schemas import SCHEMA_VERSION
from phasegrid.store.store import Store

A, B = text_key("a"), text_key("b")
TABLES = ("trials", "histories", "plans", "failures", "metrics/sharpness")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


# --- opening


def test_a_store_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no phasegrid store there"):
        Store.open(str(tmp_path / "absent"))
    assert list(tmp_path.iterdir()) == []


def test_a_store_opens_again_with_the_same_id(store: Store) -> None:
    assert Store.open(store.url).id == store.id
    assert Store.open(f"file://{store.url}", create=True).id == store.id
    assert pickle.loads(pickle.dumps(store)) == store


def test_another_folder_is_another_store(tmp_path: Path) -> None:
    assert make_store(tmp_path / "one").id != make_store(tmp_path / "two").id


def test_a_folder_with_other_things_does_not_become_a_store(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"contains other files \(thesis.tex\)"):
        Store.open(str(tmp_path), create=True)


def test_a_store_whose_making_was_cut_short_is_made(tmp_path: Path) -> None:
    (tmp_path / "_tmp").mkdir()
    (tmp_path / "meta").mkdir()
    assert Store.open(str(tmp_path), create=True).id


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for create in (False, True):
        with pytest.raises(StoreError, match="a file is where a folder should be"):
            Store.open(str(tmp_path / "file"), create=create)


def test_a_newer_format_asks_for_an_upgrade(store: Store) -> None:
    marker = Path(store.files.path("meta/store.json"))
    marker.write_text(json.dumps({"format": 2, "phasegrid": "9.0", "id": "x"}))
    with pytest.raises(StoreError, match=r"format 2, made by phasegrid 9.0.*upgrade"):
        Store.open(store.url)


@pytest.mark.parametrize("text", ["", "[]", '{"format": "x"}'])
def test_a_damaged_marker_is_named(store: Store, text: str) -> None:
    Path(store.files.path("meta/store.json")).write_text(text)
    with pytest.raises(StoreError, match=r"store.json is damaged"):
        Store.open(store.url)


def test_an_unknown_file_system_is_refused() -> None:
    with pytest.raises(SweepError, match=r"no store can be at nonsense://; use a folder, "):
        Store.open("nonsense://bucket/store")


def test_a_file_system_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import fsspec

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(StoreError, match=r"pip install 'phasegrid\[s3\]'"):
        Store.open("s3://bucket/store")


def test_a_store_that_cannot_be_written_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(local.os, "fsync", denied)
    with pytest.raises(StoreError, match=r"writing to store .*: permission denied"):
        Store.open(store.url, create=True)
    with pytest.raises(StoreError, match=r"writing a failure to .*: permission denied"):
        store.put_failure({"kind": "app"})


def test_a_full_disk_says_so_and_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local.os, "fsync", full_disk)
    with pytest.raises(StoreError, match="No space left on device"):
        put(store, "trials", bare("trials", "a"))
    assert store.files.names("_tmp") == []
    assert store.stored("trials") == set()


def test_a_storage_that_loses_what_is_written_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.LocalFiles, "read", lambda *_: b"something else")
    with pytest.raises(StoreError, match="reading back gave other bytes than were written"):
        store.probe()


# --- rows


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("make", [bare, full])
def test_what_is_put_is_what_is_read(store: Store, table: str, make: Any) -> None:
    row = make(table, "a")
    put(store, table, row)
    (found,) = store.read_table(table).to_pylist()
    assert found["schema_version"] == SCHEMA_VERSION
    drawn = {"created_at", "checkpoint_sha256", "sweep", "artifacts"}
    assert {k: found[k] for k in row.keys() - drawn} == {k: row[k] for k in row.keys() - drawn}
    assert all(found[k] is None for k in found.keys() - row.keys() - drawn - {"schema_version"})


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_is_not_there_is_empty(store: Store, table: str) -> None:
    rows = store.read_table(table)
    assert len(rows) == 0
    assert "key" in rows.schema.names


def test_a_trial_is_listed_and_looked_up(store: Store) -> None:
    put(store, "trials", bare("trials", "a"))
    assert store.stored("trials") == {A}
    assert store.has("trials", A)
    assert not store.has("trials", B)
    rows = store.read_table("trials", columns=["key", "outcome"], keys=[A, B])
    assert rows.to_pylist() == [{"key": A, "outcome": "done"}]


def test_the_first_trial_stays(store: Store) -> None:
    import torch

    first, second = bare("trials", "a"), {**bare("trials", "a"), "train_loss": 1.0}
    assert store.put_trial(first, [], {"w": torch.zeros(1)})
    assert not store.put_trial(second, [{"epoch": 0}], {"w": torch.ones(1)})
    assert store.read_table("trials")["train_loss"].to_pylist() == [None]
    assert store.read_checkpoint(A)["w"].item() == 0
    assert store.stored("histories") == set()


def test_the_first_measurement_stays(store: Store) -> None:
    common = bare("metrics/sharpness", "a")
    assert store.put_metric("sharpness", COLUMNS, common, [{"value": 1.0}])
    assert not store.put_metric("sharpness", COLUMNS, common, [{"value": 2.0}])
    assert store.read_table("metrics/sharpness")["value"].to_pylist() == [1.0]


def test_rows_of_one_measurement_stay_together_in_order(store: Store) -> None:
    rows = [{"layer": name, "value": float(i)} for i, name in enumerate(("c", "a", "b"))]
    store.put_metric("sharpness", COLUMNS, bare("metrics/sharpness", "a"), rows)
    assert store.read_table("metrics/sharpness")["layer"].to_pylist() == ["c", "a", "b"]
    assert store.stored("metrics/sharpness") == {A}
    assert store.metrics() == ["sharpness"]


def test_a_measurement_that_does_not_apply_is_one_row_of_nulls(store: Store) -> None:
    common = {**bare("metrics/sharpness", "a"), "outcome": "not_applicable", "reason": "diverged"}
    store.put_metric("sharpness", COLUMNS, common, [])
    (row,) = store.read_table("metrics/sharpness").to_pylist()
    assert (row["outcome"], row["reason"], row["value"]) == ("not_applicable", "diverged", None)


def test_a_finished_measurement_without_rows_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="its status is done, but it has no rows"):
        store.put_metric("sharpness", COLUMNS, bare("metrics/sharpness", "a"), [])


def test_a_measurement_is_not_stored_under_another_name(store: Store) -> None:
    with pytest.raises(StoreError, match="its record says metric 'sharpness'"):
        store.put_metric("flatness", COLUMNS, bare("metrics/sharpness", "a"), [{}])


def test_a_metric_of_a_users_file_has_one_folder(store: Store) -> None:
    name = "my_lab/sharpness.py:SHARPNESS"
    common = {**bare("metrics/sharpness", "a"), "metric": name}
    store.put_metric(name, COLUMNS, common, [{"value": 1.0}])
    assert store.metrics() == [name]
    assert store.stored(f"metrics/{name}") == {A}
    compact(store)
    assert store.read_table(f"metrics/{name}")["value"].to_pylist() == [1.0]


def test_a_later_version_of_a_metric_may_add_a_column(store: Store) -> None:
    added = (*COLUMNS, Column("stderr", "float64", "", ""))
    common = bare("metrics/sharpness", "a")
    store.put_metric("sharpness", COLUMNS, common, [{"value": 1.0}])
    store.put_metric("sharpness", added, {**common, "key": B}, [{"value": 2.0, "stderr": 0.1}])
    for _ in range(2):
        rows = store.read_table("metrics/sharpness", columns=["value", "stderr"])
        assert sorted(rows.to_pylist(), key=lambda row: row["value"]) == [
            {"value": 1.0, "stderr": None},
            {"value": 2.0, "stderr": 0.1},
        ]
        compact(store)


def test_a_metric_whose_column_changes_its_type_is_refused(store: Store) -> None:
    common = bare("metrics/sharpness", "a")
    store.put_metric("sharpness", (Column("v", "float64", "", ""),), common, [{"v": 1.0}])
    other = (Column("v", "string", "", ""),)
    store.put_metric("sharpness", other, {**common, "key": B}, [{"v": "x"}])
    with pytest.raises(StoreError, match="disagree on the type of a column"):
        store.read_table("metrics/sharpness")


def test_columns_and_keys_narrow_a_table(store: Store) -> None:
    for name in ("a", "b", "c"):
        put(store, "trials", bare("trials", name))
    for _ in range(2):
        rows = store.read_table("trials", columns=["seed", "key"], keys=[A, B, text_key("no")])
        assert rows.schema.names == ["seed", "key"]
        assert set(rows["key"].to_pylist()) == {A, B}
        compact(store)
    with pytest.raises(StoreError, match="has no column 'sed'"):
        store.read_table("trials", columns=["sed"])


def test_a_checkpoint_with_the_name_of_earlier_releases_is_read(store: Store) -> None:
    torch = pytest.importorskip("torch")
    store.publish(Artifact(A, "weights@epoch-5"), {"w": torch.tensor([5.0])})
    data = store.files.read(f"checkpoints/{A[:2]}/{A}@epoch-5.safetensors")
    store.files.delete(f"checkpoints/{A[:2]}/{A}@epoch-5.safetensors")
    store.files.create(f"checkpoints/{A[:2]}/{A}.epoch-5.safetensors", data)
    assert store.has_artifact(Artifact(A, "weights@epoch-5"))
    assert store.read_checkpoint(A, epoch=5)["w"].item() == 5.0
    assert not store.has_artifact(Artifact(A, "weights@update-5"))


def test_a_plan_is_replaced_and_read_by_name(store: Store) -> None:
    rows = [{"cell": i, "seed": 0, "key": A} for i in range(3)]
    store.put_plan("toy", rows)
    store.put_plan("other", rows[:1])
    store.put_plan("toy", rows[:2])
    assert store.sweeps() == ["other", "toy"]
    assert store.read_plan("toy")["cell"].to_pylist() == [0, 1]
    assert len(store.read_plan("absent")) == 0


def test_a_failure_gets_an_id_and_a_time(store: Store) -> None:
    name = store.put_failure({"kind": "oom", "key": A})
    (row,) = store.read_table("failures").to_pylist()
    assert row["id"] == name
    assert row["created_at"] is not None


def test_an_older_file_without_a_column_is_read_with_nulls(store: Store) -> None:
    put(store, "trials", bare("trials", "a"))
    path = store.files.path(f"trials/{A[:2]}/{A}.parquet")
    pq.write_table(rows_without_checksum(path).drop_columns(["strategy"]), path)
    assert store.read_table("trials")["strategy"].to_pylist() == [None]


ADDED_IN_3 = ["dataset_code_digest", "model_code_digest", "user_git_commit", "user_git_dirty"]
ADDED_IN_2 = [
    *("updates", "batch_unit", "test_every", "updates_run", "task", "num_classes"),
    *("best_test_loss", "best_test_loss_epoch"),
    *("best_test_accuracy_percent", "best_test_accuracy_epoch"),
    *ADDED_IN_3,
]


def test_a_trial_of_schema_version_1_is_read_beside_newer_ones(store: Store) -> None:
    import pyarrow as pa

    put(store, "trials", full("trials", "a"))
    put(store, "trials", full("trials", "b"))
    path = store.files.path(f"trials/{A[:2]}/{A}.parquet")
    old = rows_without_checksum(path).drop_columns(ADDED_IN_2)
    pq.write_table(old.set_column(0, "schema_version", pa.array([1], pa.int32())), path)
    for _ in range(2):  # from the files, then from their copy
        rows = {row["key"]: row for row in store.read_table("trials").to_pylist()}
        assert [rows[key]["schema_version"] for key in (A, B)] == [1, SCHEMA_VERSION]
        assert [rows[A][column] for column in ADDED_IN_2] == [None] * len(ADDED_IN_2)
        assert None not in [rows[B][column] for column in ADDED_IN_2]
        assert rows[A]["batch_size"] == rows[B]["batch_size"]
        compact(store)


def test_a_newer_file_asks_for_an_upgrade(store: Store) -> None:
    import pyarrow as pa

    put(store, "trials", bare("trials", "a"))
    path = store.files.path(f"trials/{A[:2]}/{A}.parquet")
    table = rows_without_checksum(path)
    newer = table.set_column(0, "schema_version", pa.array([99], pa.int32()))
    pq.write_table(newer.append_column("extra", pa.array([1])), path)
    with pytest.raises(
        StoreError, match=f"schema version 99, this phasegrid reads up to {SCHEMA_VERSION}"
    ):
        store.read_table("trials")


def test_a_column_of_another_type_is_named(store: Store) -> None:
    import pyarrow as pa

    put(store, "trials", bare("trials", "a"))
    path = store.files.path(f"trials/{A[:2]}/{A}.parquet")
    table = rows_without_checksum(path)
    at = table.schema.get_field_index("seed")
    pq.write_table(table.set_column(at, "seed", pa.array(["0"])), path)
    with pytest.raises(StoreError, match="column 'seed' is string, int64 is expected"):
        store.read_table("trials")


# --- names


@pytest.mark.parametrize("key", ["../../etc/passwd", "", "A" * 32, "a" * 31, "a" * 33, "None"])
def test_what_is_not_a_key_is_refused(store: Store, key: str) -> None:
    refused = pytest.raises(StoreError, match="is not a key")
    with refused:
        store.put_trial({**bare("trials", "a"), "key": key}, [], {})
    with pytest.raises(StoreError, match="is not a key"):
        store.put_metric("m", COLUMNS, {"key": key}, [{}])
    with pytest.raises(StoreError, match="is not a key"):
        store.checkpoint_path(key)
    with pytest.raises(StoreError, match="is not a key"):
        store.has("trials", key)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../up", "/etc", "a b", "x" * 129, "a\n"])
def test_a_name_that_is_a_path_is_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match=r"sweep .* cannot name a file"):
        store.put_plan(name, [bare("plans", "a")])
    with pytest.raises(StoreError, match="is not a key"):
        store.snapshots().epochs(name)
    with pytest.raises(StoreError, match=r"log .* cannot name a file"):
        store.write_log(f"{name}/../x", "text")


@pytest.mark.parametrize("metric", ["", "..", "../trials", ".hidden", "_x", "m" * 201])
def test_a_metric_that_cannot_be_a_folder_is_refused(store: Store, metric: str) -> None:
    with pytest.raises(StoreError, match="there is no table"):
        store.stored(f"metrics/{metric}")


def test_an_unknown_table_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="there is no table 'trails'"):
        store.read_table("trails")


def test_a_log_is_a_text_under_its_name(store: Store) -> None:
    where = store.write_log("driver/run-1.log", "hello")
    assert where == store.log_path("driver/run-1.log")
    assert Path(where).read_text() == "hello"


# --- weights


def test_weights_come_back_exactly(store: Store) -> None:
    import torch

    flat = torch.arange(6.0)
    weights = {
        "w": flat[:4].view(2, 2).t(),
        "b": flat[4:],
        "num_batches_tracked": torch.tensor(3),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    left = leave(store, "a", "epoch-5", {"w": flat})
    store.put_trial(bare("trials", "a"), [], weights, left)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = store.read_checkpoint(A)
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert torch.equal(store.read_checkpoint(A, epoch=5)["w"], flat)
    assert store.checkpoint_path(A, 5).endswith(f"checkpoints/{A[:2]}/{A}@epoch-5.safetensors")
    with pytest.raises(StoreError, match=r"epoch-6.safetensors does not exist"):
        store.read_checkpoint(A, epoch=6)


def test_damaged_weights_are_named(store: Store) -> None:
    import torch

    store.put_trial(bare("trials", "a"), [], {"w": torch.zeros(9)})
    path = Path(store.checkpoint_path(A))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="not a whole safetensors file"):
        store.read_checkpoint(A)


def test_snapshots_are_kept_by_trial_and_epoch_until_they_are_deleted(store: Store) -> None:
    import torch

    snapshots = store.snapshots()
    assert snapshots.epochs(A) == set()
    assert snapshots.load(A, 1) is None
    for epoch in (1, 2, 2):
        meta = {"epoch": epoch, "best": float("inf"), "name": "Größe"}
        snapshots.save(A, epoch, {"w": torch.full((2,), float(epoch))}, meta)
    snapshots.save(text_key("other"), 7, {}, [1, 2])  # without tensors
    assert snapshots.epochs(A) == {1, 2}
    found = store.snapshots().load(A, 2)
    assert found is not None
    tensors, facts = found
    assert tensors["w"].tolist() == [2.0, 2.0]
    assert facts == {"epoch": 2, "best": float("inf"), "name": "Größe"}
    snapshots.delete(A, {1, 2, 3})
    assert snapshots.epochs(A) == set()
    assert snapshots.load(text_key("other"), 7) == ({}, [1, 2])


# --- crashes


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_a_crash_between_steps_leaves_no_visible_trial(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Checkpoint, intermediate checkpoint, history, row: whatever comes before the row, the trial
    is not there.
    """
    import torch

    replace, steps = os.replace, iter(range(step))
    link = os.link

    def dying(function: Any) -> Any:
        def call(*paths: str) -> None:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            function(*paths)

        return call

    history = [{"epoch": 0, "train_loss": 1.0}]
    weights = {"w": torch.zeros(1)}
    with monkeypatch.context() as patch:
        patch.setattr(local.os, "replace", dying(replace))
        patch.setattr(local.os, "link", dying(link))
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # any step of the two may be the last
            left = leave(store, "a", "epoch-1", weights)
            store.put_trial(bare("trials", "a"), history, weights, left)
    assert store.stored("trials") == set()
    assert not store.has("trials", A)
    assert store.files.names("_tmp") == []
    # The attempt after the crash is the one that counts, in every file.
    again = [{"epoch": 0, "train_loss": 2.0}]
    left = leave(store, "a", "epoch-1", weights)
    assert store.put_trial(bare("trials", "a"), again, {"w": torch.ones(1)}, left)
    assert store.read_checkpoint(A)["w"].item() == 1.0
    assert store.read_table("histories")["train_loss"].to_pylist() == [2.0]


@pytest.mark.parametrize("error", [1, 95, 38])
def test_without_hard_links_the_first_writer_still_wins(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def no_links(*_: str) -> None:
        raise OSError(error, "no links here")

    monkeypatch.setattr(local.os, "link", no_links)
    common = bare("metrics/sharpness", "a")
    assert store.put_metric("sharpness", COLUMNS, common, [{"value": 1.0}])
    monkeypatch.setattr(local.LocalFiles, "exists", lambda *_: False)
    assert not store.put_metric("sharpness", COLUMNS, common, [{"value": 2.0}])
    assert store.read_table("metrics/sharpness")["value"].to_pylist() == [1.0]


def test_a_link_that_fails_otherwise_is_reported(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(local.os, "link", broken)
    impatient = Store(store.url, open_files(store.url), store.id)
    with pytest.raises(StoreError, match=r"writing a failure to .*Input/output error"):
        impatient.put_failure({"kind": "app"})


# --- compaction


@pytest.mark.parametrize("table", [t for t in TABLES if t != "plans"])
def test_a_copy_changes_nothing_but_the_speed(store: Store, table: str) -> None:
    put(store, table, full(table, "a"))
    put(store, table, bare(table, "b"))
    before = store.read_table(table).sort_by("key")
    assert [c.num_new_files for c in compact(store).tables if c.table == table] == [2]
    put(store, table, full(table, "c"))
    after = store.read_table(table)
    assert after.schema == before.schema
    assert len(after) == 3
    kept = [row for row in after.sort_by("key").to_pylist() if row in before.to_pylist()]
    assert kept == before.to_pylist()
    assert [c.num_new_files for c in compact(store).tables if c.table == table] == [1]
    assert [c.num_new_files for c in compact(store).tables if c.table == table] == [0]
    assert store.read_table(table).equals(after)


def test_a_copy_alone_still_holds_the_rows(store: Store) -> None:
    put(store, "trials", bare("trials", "a"))
    compact(store)
    Path(store.files.path(f"trials/{A[:2]}/{A}.parquet")).unlink()
    assert store.stored("trials") == {A}
    assert len(store.read_table("trials", keys=[A, B])) == 1


@pytest.mark.parametrize("compacted", [False, True])
def test_many_keys_and_few_give_the_same_rows(
    store: Store, compacted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        put(store, "trials", bare("trials", name))
        if compacted and name == "b":
            compact(store)
    keys = [A, text_key("c"), text_key("no")]
    few = store.read_table("trials", keys=keys).sort_by("key")
    monkeypatch.setattr(tables, "_FEW", 0)
    assert store.read_table("trials", keys=keys).sort_by("key").equals(few)
    assert few["key"].to_pylist() == sorted(keys[:2])


def test_compacting_says_what_it_did(store: Store) -> None:
    assert compact(store).lines() == ["nothing to compact"]
    put(store, "trials", bare("trials", "a"))
    (line,) = compact(store).lines()
    assert line.startswith("trials: 1 file copied, 1 row, ")
    assert compact(store).lines() == ["trials: 1 row, nothing new"]


def test_a_damaged_file_stops_compaction_and_the_copy_before_stays(store: Store) -> None:
    put(store, "trials", bare("trials", "a"))
    compact(store)
    put(store, "trials", bare("trials", "b"))
    path = Path(store.files.path(f"trials/{B[:2]}/{B}.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=f"{B}.parquet: not a whole Parquet file"):
        compact(store)
    path.unlink()
    assert store.read_table("trials")["key"].to_pylist() == [A]
