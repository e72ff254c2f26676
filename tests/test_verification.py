"""Whatever is wrong with a store is found and named; a sound one has no problems."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from store_support import COLUMNS, bare, full, leave, make_store, put, rows_without_checksum

from phasegrid.errors import StoreError
from phasegrid.keys import text_key
from phasegrid.run.verify import STALE_S, verify
from phasegrid.store import checkpoints
from phasegrid.store.compact import compact
from phasegrid.store.provenance import _checkout, provenance
from phasegrid.store.store import Store

A, B, M = text_key("a"), text_key("b"), text_key("m")
SHARD = f"trials/{A[:2]}/{A}.parquet"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A sound store: two trials with weights, one of them planned, a measurement, a failure, copies
    of all.
    """
    import torch

    store = make_store(tmp_path)
    for name in ("a", "b"):
        weights = {"w": torch.ones(4), "n": torch.tensor(1), "h": torch.ones(2).bfloat16()}
        left = leave(store, name, "epoch-1", weights)
        store.put_trial(bare("trials", name), [{"epoch": 0}], weights, left)
    put(store, "metrics/sharpness", full("metrics/sharpness", "m"))
    put(store, "failures", full("failures", "f"))
    jobs = [{"cell": 0, "metric": "sharpness", "key": M, "trials": [A]}]
    store.put_plan("toy", [{"cell": 0, "seed": 0, "key": A}], jobs)
    compact(store)
    return store


def _path(store: Store, name: str) -> Path:
    return Path(store.files.path(name))


def _found(store: Store, deep: bool = False, sweep: str | None = None) -> str:
    return "\n".join(str(problem) for problem in verify(store, sweep, deep=deep))


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_store_has_no_problems(store: Store, deep: bool) -> None:
    assert verify(store, deep=deep) == []
    assert verify(store, "toy", deep=deep) == []


def test_an_imported_trial_needs_no_weights(store: Store) -> None:
    put(store, "trials", bare("trials", "imported"))
    assert verify(store, deep=True) == []


def test_a_sweep_that_is_not_there_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="there is no sweep 'tuy'"):
        verify(store, "tuy")


@pytest.mark.parametrize(
    "name",
    [
        SHARD,
        f"histories/{A[:2]}/{A}.parquet",
        f"metrics/sharpness/{text_key('m')[:2]}/{text_key('m')}.parquet",
        f"failures/{text_key('f')}.parquet",
        "plans/toy.parquet",
        "plan_jobs/toy.parquet",
        "tables/trials.parquet",
        "tables/metrics.sharpness.parquet",
    ],
)
@pytest.mark.parametrize("kept", [0, 5, -3])
def test_a_cut_short_file_is_found(store: Store, name: str, kept: int) -> None:
    path = _path(store, name)
    path.write_bytes(path.read_bytes()[:kept])
    (line,) = [line for line in _found(store).splitlines() if "not a whole Parquet file" in line]
    assert line.startswith(str(path))


def test_a_file_under_another_name_is_found(store: Store) -> None:
    other = text_key("other")
    (_path(store, f"trials/{other[:2]}")).mkdir(exist_ok=True)
    _path(store, SHARD).rename(_path(store, f"trials/{other[:2]}/{other}.parquet"))
    assert f"its rows are about ['{A}']" in _found(store)


@pytest.mark.parametrize(
    "name",
    ["trials/notes.txt", "trials/ab/x.parquet", f"trials/zz/{A}.parquet", "metrics/sharpness/x"],
)
def test_a_foreign_file_is_found(store: Store, name: str) -> None:
    _path(store, name).parent.mkdir(exist_ok=True)
    _path(store, name).write_text("x")
    assert f"{_path(store, name)}: does not belong in table" in _found(store)


def test_rows_that_are_there_twice_are_found(store: Store) -> None:
    import pyarrow as pa

    for name in (SHARD, f"histories/{A[:2]}/{A}.parquet", "tables/trials.parquet"):
        table = rows_without_checksum(_path(store, name))
        pq.write_table(pa.concat_tables([table, table]), _path(store, name))
    found = _found(store)
    assert "2 rows found, one is expected" in found
    assert "an epoch occurs twice" in found
    assert "2 trials occur twice" in found


def test_a_wrong_schema_is_found(store: Store) -> None:
    table = rows_without_checksum(_path(store, SHARD))
    at = table.schema.get_field_index("seed")
    pq.write_table(table.set_column(at, "seed", table["seed"].cast("double")), _path(store, SHARD))
    assert "column 'seed' is double, int64 is expected" in _found(store)


def test_measurements_that_disagree_on_a_type_are_found(store: Store) -> None:
    from phasegrid.declare import Column

    other = (Column("value", "string", "", ""), *COLUMNS[1:])
    store.put_metric("sharpness", other, bare("metrics/sharpness", "n"), [{"value": "x"}])
    assert "its files disagree on the type of a column" in _found(store)


def test_a_copy_of_nothing_is_found(store: Store) -> None:
    _path(store, "tables/trails.parquet").write_bytes(b"")
    assert "tables/trails.parquet: is not a copy of any table" in _found(store)


def test_planned_trials_that_are_not_stored_are_counted(store: Store) -> None:
    keys = [A, B, text_key("x"), text_key("y")]
    store.put_plan("toy", [{"cell": 0, "seed": i, "key": key} for i, key in enumerate(keys)])
    first = min(keys[2:])
    assert f"sweep toy: 2 of 4 planned trials are not stored (first: {first})" in _found(store)


def _job(metric: str, name: str) -> dict[str, object]:
    return {"cell": 0, "metric": metric, "key": text_key(name), "trials": [A]}


def test_planned_measurements_that_are_not_stored_are_counted(store: Store) -> None:
    jobs = [_job("sharpness", name) for name in ("m", "x", "y")] + [_job("flatness", "z")]
    store.put_plan("toy", [{"cell": 0, "seed": 0, "key": A}], jobs)
    first = min(text_key("x"), text_key("y"))
    assert _found(store).splitlines() == [
        (
            f"sweep toy: 2 of 3 planned jobs of sharpness are not stored (first: {first}); run the"
            " sweep again"
        ),
        (
            f"sweep toy: 1 of 1 planned jobs of flatness are not stored (first: {text_key('z')});"
            " run the sweep again"
        ),
    ]


def test_a_measurement_that_only_the_copy_holds_is_stored(store: Store) -> None:
    _path(store, f"metrics/sharpness/{M[:2]}/{M}.parquet").unlink()
    assert _found(store) == ""
    _path(store, "tables/metrics.sharpness.parquet").unlink()
    assert "1 of 1 planned jobs of sharpness" in _found(store)


def test_a_plan_without_measurements_forgets_those_of_before(store: Store) -> None:
    assert store.read_table("plan_jobs")["key"].to_pylist() == [M]
    store.put_plan("toy", [{"cell": 0, "seed": 0, "key": A}])
    assert len(store.read_table("plan_jobs")) == 0
    assert _found(store) == ""


def test_a_seed_planned_twice_is_found(store: Store) -> None:
    store.put_plan("toy", [{"cell": 0, "seed": 0, "key": key} for key in (A, B)])
    assert "a seed of a cell is planned twice" in _found(store)


def test_missing_weights_are_found(store: Store) -> None:
    Path(store.checkpoint_path(B)).unlink()
    assert f"trial {B}: its checkpoint is missing" in _found(store)
    assert _found(store, sweep="toy") == ""  # trial b is not of that sweep


@pytest.mark.parametrize("kept", [0, 4, 20, -1])
def test_cut_short_weights_are_found(store: Store, kept: int) -> None:
    path = Path(store.checkpoint_path(A))
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path}: reading {path}: " in _found(store)


def test_weights_with_a_damaged_header_are_found(store: Store) -> None:
    path = Path(store.checkpoint_path(A))
    data = bytearray(path.read_bytes())
    data[8] = ord("x")
    path.write_bytes(bytes(data))
    assert "damaged safetensors header" in _found(store)


def test_a_file_that_is_no_checkpoint_is_found(store: Store) -> None:
    _path(store, "checkpoints/best.pt").write_bytes(b"")
    assert "best.pt: is not a checkpoint" in _found(store)


def test_changed_weights_are_found_by_a_deep_check(store: Store) -> None:
    path = Path(store.checkpoint_path(A))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert _found(store) == ""
    found = _found(store, deep=True)
    assert "its checksum does not fit" in found
    assert "`phasegrid gc --damaged --deep --delete`" in found


def test_weights_of_another_training_are_found_by_a_deep_check(store: Store) -> None:
    """They are whole, and not those that the trial's row tells of."""
    import torch

    Path(store.checkpoint_path(A)).write_bytes(checkpoints.encode({"w": torch.zeros(4)}))
    assert _found(store) == ""
    assert "SHA-256 differs" in _found(store, deep=True)


@pytest.mark.parametrize("name", [".nfs0001", f"{A[:2]}/._{A}.epoch-1.safetensors"])
def test_a_file_that_is_no_snapshot_is_no_damaged_one(store: Store, name: str) -> None:
    _path(store, f"snapshots/{name}").parent.mkdir(parents=True, exist_ok=True)
    _path(store, f"snapshots/{name}").write_bytes(b"theirs")
    assert _found(store) == ""


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_no_numbers_are_found_by_a_deep_check(
    store: Store, dtype: str, value: str
) -> None:
    import torch

    bad = torch.tensor([0.0, float(value)]).to(getattr(torch, dtype))
    limits = torch.finfo(bad.dtype)
    fine = torch.tensor([limits.max, limits.min, limits.tiny], dtype=bad.dtype)
    weights = {"fine": fine, "bad": bad, "n": torch.tensor(-1)}
    store.put_trial(bare("trials", "c"), [], weights)
    store.put_trial({**bare("trials", "d"), "outcome": "diverged"}, [], weights)
    (line,) = _found(store, deep=True).splitlines()
    assert line == f"{store.checkpoint_path(text_key('c'))}: NaN or infinity in bad"


def test_only_old_temporary_files_are_problems(store: Store) -> None:
    path = _path(store, f"_tmp/left.{0:032x}")
    path.write_bytes(b"half")
    assert _found(store) == ""
    old = path.stat().st_mtime - STALE_S - 60
    os.utime(path, (old, old))
    assert ": was left by a process that died" in _found(store)


def test_a_damaged_trial_does_not_hide_what_else_is_wrong(store: Store) -> None:
    _path(store, SHARD).write_bytes(b"")
    _path(store, "tables/trials.parquet").write_bytes(b"")
    Path(store.checkpoint_path(B)).unlink()
    found = _found(store)
    assert found.count("not a whole Parquet file") == 2
    assert f"trial {B}: its checkpoint is missing" in found


# --- provenance


def test_provenance_names_the_place_and_the_versions() -> None:
    import phasegrid

    found = provenance("cuda", name="NVIDIA H200")
    assert found["device"] == "cuda"
    assert found["device_name"] == "NVIDIA H200"
    assert found["phasegrid_version"] == phasegrid.__version__
    assert str(found["torch_version"])[0].isdigit()
    assert set(found) == {
        "device", "device_name", "host", "phasegrid_version", "git_commit", "git_dirty", "torch_version",
        "user_git_commit", "user_git_dirty",
    }  # fmt: skip


def test_a_checkout_has_a_commit_and_a_folder_inside_one_has_none(tmp_path: Path) -> None:
    import subprocess

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, timeout=60)

    assert _checkout(tmp_path) == (None, None)
    _checkout.cache_clear()
    git("init", "-q")
    assert _checkout(tmp_path) == (None, None)  # no commit yet
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    _checkout.cache_clear()
    commit, dirty = _checkout(tmp_path)
    assert len(str(commit)) == 40
    assert dirty is False
    (tmp_path / "file").write_text("two")
    assert _checkout(tmp_path) == (commit, False)  # looked up once per process
    _checkout.cache_clear()
    assert _checkout(tmp_path) == (commit, True)
    (tmp_path / "inside").mkdir()
    assert _checkout(tmp_path / "inside") == (None, None)


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    _checkout.cache_clear()
    assert _checkout(tmp_path) == (None, None)
