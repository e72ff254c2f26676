"""What was cut short after it was written is found, named, and done again; it costs the jobs that
need it and no others.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from store_support import bare, full, leave, make_store, put, rows_without_checksum
from typer.testing import CliRunner

from phasegrid.cli import store as cli_store
from phasegrid.cli.main import app
from phasegrid.errors import StoreError
from phasegrid.keys import text_key
from phasegrid.run.verify import verify
from phasegrid.store import meta
from phasegrid.store.compact import compact
from phasegrid.store.gc import delete_garbage
from phasegrid.store.repair import find_damage
from phasegrid.store.store import Store
from tests.faults.comparing import assert_same_results
from tests.faults.test_storage_faults import run_here, small_sweep

A, B, M = text_key("a"), text_key("b"), text_key("m")


@pytest.fixture
def sound(tmp_path: Path) -> Store:
    """A store of two trials with weights and histories, a measurement, a plan and a snapshot."""
    import torch

    store = make_store(tmp_path)
    weights = {"w": torch.ones(9)}
    for name in ("a", "b"):
        left = leave(store, name, "epoch-1", weights)
        store.put_trial(bare("trials", name), [{"epoch": 0}], weights, left)
    put(store, "metrics/sharpness", full("metrics/sharpness", "m"))
    store.put_plan("toy", [{"cell": 0, "seed": 0, "key": A}])
    store.snapshots().save(text_key("s"), 3, weights, None)
    return store


def _path(store: Store, name: str) -> Path:
    return Path(store.files.path(name))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _named(store: Store, deep: bool = False) -> set[str]:
    return {item.name for item in find_damage(store, deep).garbage}


class _Watched:
    """The files of a store; what is to happen after a listing, and before a deletion, is handed
    in.
    """

    def __init__(
        self,
        files: Any,
        listed: Callable[[str], object] = str,
        deleting: Callable[[str], object] = str,
    ) -> None:
        self.files, self.listed, self.deleting = files, listed, deleting

    def __getattr__(self, name: str) -> Any:
        return getattr(self.files, name)

    def names(self, folder: str) -> list[str]:
        found: list[str] = self.files.names(folder)
        self.listed(folder)
        return found

    def delete(self, name: str) -> None:
        self.deleting(name)
        self.files.delete(name)


def _trial(key: str) -> set[str]:
    folder = f"{key[:2]}/{key}"
    return {
        f"trials/{folder}.parquet",
        f"histories/{folder}.parquet",
        f"checkpoints/{folder}.safetensors",
        f"checkpoints/{folder}@epoch-1.safetensors",
    }


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_store_has_no_damage(sound: Store, deep: bool) -> None:
    compact(sound)
    assert find_damage(sound, deep).garbage == ()
    assert find_damage(sound, deep).kept == ()


@pytest.mark.parametrize(
    ("name", "goes"),
    [
        (f"trials/{A[:2]}/{A}.parquet", {f"trials/{A[:2]}/{A}.parquet"}),
        (f"histories/{A[:2]}/{A}.parquet", _trial(A)),
        (f"checkpoints/{A[:2]}/{A}.safetensors", _trial(A)),
        (f"checkpoints/{A[:2]}/{A}@epoch-1.safetensors", _trial(A)),
        (f"metrics/sharpness/{M[:2]}/{M}.parquet", {f"metrics/sharpness/{M[:2]}/{M}.parquet"}),
    ],
)
def test_what_is_cut_short_goes_with_what_belongs_to_it(
    sound: Store, name: str, goes: set[str]
) -> None:
    _cut(_path(sound, name))
    assert _named(sound) == goes
    delete_garbage(sound, find_damage(sound).garbage)
    assert find_damage(sound).garbage == ()
    assert sound.stored("trials") >= {B}
    assert not any(_path(sound, gone).exists() for gone in goes)


def test_a_trial_without_its_weights_goes_too(sound: Store) -> None:
    Path(sound.checkpoint_path(A)).unlink()
    assert _named(sound) == _trial(A) - {f"checkpoints/{A[:2]}/{A}.safetensors"}


@pytest.mark.parametrize("folder", ["trials", "checkpoints"])
def test_a_trial_that_is_stored_meanwhile_is_no_damage(sound: Store, folder: str) -> None:
    import torch

    weights = {"w": torch.ones(9)}

    def commits(listed: str) -> None:
        if listed == folder:
            sound.put_trial(bare("trials", "c"), [{"epoch": 0}], weights)

    watched = replace(sound, files=_Watched(sound.files, listed=commits))
    assert find_damage(watched, deep=True).garbage == ()
    assert sound.stored("trials") == {A, B, text_key("c")}


def test_rows_of_trials_are_gone_before_anything_else_goes(sound: Store) -> None:
    for key in (A, B):
        _cut(_path(sound, f"histories/{key[:2]}/{key}.parquet"))
    deleted: list[str] = []
    early: list[str] = []

    def looks(name: str) -> None:
        deleted.append(name)
        if not name.startswith("trials/") and sound.files.names("trials"):
            early.append(name)

    watched = replace(sound, files=_Watched(sound.files, deleting=looks))
    delete_garbage(watched, find_damage(sound).garbage)
    assert set(deleted) == _trial(A) | _trial(B)
    assert early == []


def test_an_interrupted_deletion_leaves_no_row_without_its_history(sound: Store) -> None:
    _cut(_path(sound, f"histories/{A[:2]}/{A}.parquet"))
    before = find_damage(sound)

    def dies(name: str) -> None:
        if name.startswith("trials/"):
            raise KeyboardInterrupt

    watched = replace(sound, files=_Watched(sound.files, deleting=dies))
    with pytest.raises(KeyboardInterrupt):
        delete_garbage(watched, before.garbage)
    assert find_damage(sound) == before


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints/README.txt",
        f"checkpoints/{A[:2]}/.nfs0001",
        f"checkpoints/{A[:2]}/._{A}.safetensors",
        f"checkpoints/{A[:2]}/{A}.notes.txt",
        "snapshots/.nfs0001",
        "snapshots/README.txt",
        "tables/.nfs0001",
        "tables/README.txt",
        f"trials/{A[:2]}/._{A}.parquet",
        f"histories/{A[:2]}/._{A}.parquet",
        "plans/._toy.parquet",
    ],
)
def test_a_file_that_is_not_ours_is_left_alone(sound: Store, name: str) -> None:
    _path(sound, name).parent.mkdir(exist_ok=True)
    _path(sound, name).write_bytes(b"theirs")
    assert find_damage(sound, deep=True).garbage == ()
    _cut(Path(sound.checkpoint_path(A)))
    assert _named(sound) == _trial(A)


def test_a_file_that_does_not_belong_into_a_table_is_named(sound: Store) -> None:
    """Readers pass it over."""
    path = _path(sound, f"trials/{A[:2]}/._{A}.parquet")
    path.write_bytes(b"theirs")
    assert set(sound.read_table("trials")["key"].to_pylist()) == {A, B}
    found = find_damage(sound)
    assert found.garbage == ()
    assert found.kept == (f"{path}: does not belong in table trials; move it out of there",)


def test_rows_in_a_copy_go_with_the_weights(sound: Store) -> None:
    compact(sound)
    _cut(Path(sound.checkpoint_path(A)))
    delete_garbage(sound, find_damage(sound).garbage)
    assert sound.stored("trials") == {B}
    assert set(sound.read_table("histories")["key"].to_pylist()) == {B}


def test_a_damaged_copy_goes_and_its_rows_stay(sound: Store) -> None:
    compact(sound)
    before = sound.read_table("histories").sort_by("key")
    for table in ("trials", "histories"):
        _cut(_path(sound, f"tables/{table}.parquet"))
    assert _named(sound) == {"tables/trials.parquet", "tables/histories.parquet"}
    delete_garbage(sound, find_damage(sound).garbage)
    assert sound.stored("trials") == {A, B}
    assert sound.read_table("histories").sort_by("key").equals(before)


def test_the_only_copy_of_rows_is_left_alone_and_named(sound: Store) -> None:
    compact(sound)
    meta.put_collected(sound.files, ["trials"])
    _cut(_path(sound, "tables/trials.parquet"))
    found = find_damage(sound)
    assert found.garbage == ()
    (kept,) = found.kept
    assert "tables/trials.parquet: damaged, and the only copy of some rows" in kept


def test_beside_a_damaged_only_copy_damaged_weights_go(sound: Store) -> None:
    compact(sound)
    meta.put_collected(sound.files, ["trials"])
    _path(sound, f"trials/{A[:2]}/{A}.parquet").unlink()
    _cut(_path(sound, "tables/trials.parquet"))
    _cut(Path(sound.checkpoint_path(A)))
    found = find_damage(sound)
    row = f"trials/{A[:2]}/{A}.parquet"
    assert {item.name for item in found.garbage} == {
        "tables/histories.parquet", *_trial(A) - {row},
    }  # fmt: skip
    assert ["only copy of some rows" in note for note in found.kept] == [True]


def test_changed_weights_are_found_by_a_deep_look_and_go_with_their_trial(sound: Store) -> None:
    compact(sound)
    _flip(Path(sound.checkpoint_path(A)))
    assert _named(sound) == set()
    copies = {"tables/trials.parquet", "tables/histories.parquet"}
    assert _named(sound, deep=True) == _trial(A) | copies
    delete_garbage(sound, find_damage(sound, deep=True).garbage)
    assert sound.stored("trials") == {B}
    assert find_damage(sound, deep=True).garbage == ()


def test_a_damaged_plan_is_left_to_the_next_run(sound: Store) -> None:
    """Without its plan every trial of a sweep would be one that no plan names."""
    _cut(_path(sound, "plans/toy.parquet"))
    found = find_damage(sound)
    assert found.garbage == ()
    assert "plans/toy.parquet: damaged; `phasegrid run` of its sweep" in found.kept[0]
    sound.put_plan("toy", [{"cell": 0, "seed": 0, "key": A}])
    assert find_damage(sound).kept == ()


def test_a_file_of_another_type_is_not_taken_for_a_damaged_one(sound: Store) -> None:
    import pyarrow.parquet as pq

    path = _path(sound, f"trials/{A[:2]}/{A}.parquet")
    table = rows_without_checksum(path)
    at = table.schema.get_field_index("seed")
    pq.write_table(table.set_column(at, "seed", table["seed"].cast("double")), path)
    assert find_damage(sound).garbage == ()


def test_the_command_lists_and_with_delete_repairs(
    sound: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    _cut(Path(sound.checkpoint_path(A)))
    cli_store.gc(sound.url, delete=False, keep_days=1.0, shards=False, orphans=False, damaged=True)
    said = capsys.readouterr().out
    assert "damaged files, and what belongs to them" in said
    assert f"checkpoints/{A[:2]}/{A}.safetensors" in said
    assert "nothing was deleted" in said
    cli_store.gc(sound.url, delete=True, keep_days=1.0, shards=False, orphans=False, damaged=True)
    assert "deleted" in capsys.readouterr().out
    assert sound.stored("trials") == {B}


def test_the_command_repairs_what_a_deep_verify_names(sound: Store) -> None:
    _flip(Path(sound.checkpoint_path(A)))
    (problem,) = [p.what for p in verify(sound, deep=True)]
    assert "`phasegrid gc --damaged --deep --delete` and `phasegrid run` train it" in problem
    options = ["gc", "--storage", sound.url, "--damaged", "--deep", "--delete"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    assert sound.stored("trials") == {B}


def test_the_command_refuses_deep_without_damaged(sound: Store) -> None:
    with pytest.raises(typer.BadParameter, match="it goes with --damaged"):
        cli_store.gc(sound.url, deep=True)
    assert CliRunner().invoke(app, ["gc", "--storage", sound.url, "--deep"]).exit_code == 2


# --- what verify and readers say


def test_a_snapshot_that_is_cut_short_is_found_by_verify(sound: Store) -> None:
    (path,) = _path(sound, "snapshots").rglob("*.safetensors")
    assert verify(sound, deep=True) == []
    _cut(path)
    (problem,) = verify(sound)
    assert problem.where == str(path)
    assert "its training will start again" in problem.what
    assert _named(sound) == {str(path.relative_to(sound.files.path("")))}


def test_reading_cut_weights_names_the_file_and_the_repair(sound: Store) -> None:
    path = Path(sound.checkpoint_path(A))
    _cut(path)
    with pytest.raises(
        StoreError, match=rf"{path}: not a whole .*gc --damaged --deep --delete"
    ) as error:
        sound.read_checkpoint(A)
    assert error.value.fault is None  # of this trial, not of the storage
    path.unlink()
    with pytest.raises(StoreError, match=rf"{path} does not exist; .*gc --damaged --delete"):
        sound.read_checkpoint(A)


def test_a_snapshot_that_is_cut_short_is_noted_and_deleted(
    sound: Store, caplog: pytest.LogCaptureFixture
) -> None:
    key = text_key("s")
    (path,) = _path(sound, "snapshots").rglob("*.safetensors")
    _cut(path)
    assert sound.snapshots().load(key, 3) is None
    assert sound.snapshots().epochs(key) == set()
    (row,) = sound.read_table("failures").to_pylist()
    assert (row["key"], row["kind"]) == (key, "infra")
    assert f"{path}: not a whole safetensors file" in row["exception"]
    assert "the training begins anew" in row["exception"]
    assert str(path) in caplog.text


# --- what a run makes of it


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_here(small_sweep(folder), folder / "store") == 0
    return folder / "store"


def _first(folder: Path, pattern: str) -> Path:
    return sorted(folder.rglob(pattern))[0]


Choose = Callable[[Path], Path]
PLACES: dict[str, Choose] = {
    "trial": lambda s: _first(s / "trials", "*.parquet"),
    "history": lambda s: _first(s / "histories", "*.parquet"),
    "metric": lambda s: _first(s / "metrics/hessian", "*.parquet"),
    "weights": lambda s: _first(s / "checkpoints", "*.safetensors"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_the_documented_repair_and_a_run_bring_back_what_was_cut(
    tmp_path: Path, undisturbed: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, storage = small_sweep(tmp_path), tmp_path / "store"
    assert run_here(sweep, storage) == 0
    store, path = Store.open(str(storage)), PLACES[kind](storage)
    _cut(path)
    assert str(path) in "\n".join(str(problem) for problem in verify(store))
    delete_garbage(store, find_damage(store).garbage)
    capsys.readouterr()
    assert run_here(sweep, storage) == 0
    assert "1 of 1 jobs stored" in capsys.readouterr().err
    assert verify(store, deep=True) == []
    assert_same_results(storage, undisturbed)


def test_a_run_that_meets_a_cut_row_names_it_and_the_repair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, storage = small_sweep(tmp_path), tmp_path / "store"
    assert run_here(sweep, storage) == 0
    PLACES["metric"](storage).unlink()
    path = PLACES["trial"](storage)
    _cut(path)
    capsys.readouterr()
    assert run_here(sweep, storage) == 4
    said = capsys.readouterr().err
    assert f"reading {path}: not a whole Parquet file" in said
    assert "phasegrid gc --damaged" in said


def test_a_cut_plan_is_written_anew_by_the_run(tmp_path: Path) -> None:
    sweep, storage = small_sweep(tmp_path), tmp_path / "store"
    assert run_here(sweep, storage) == 0
    for name in ("plans", "plan_jobs"):
        _cut(storage / name / "tiny.parquet")
    store = Store.open(str(storage))
    said = "\n".join(str(problem) for problem in verify(store))
    assert f"{storage}/plans/tiny.parquet" in said
    assert f"{storage}/plan_jobs/tiny.parquet" in said
    assert run_here(sweep, storage) == 0
    assert verify(store) == []


def test_cut_weights_fail_just_the_jobs_that_need_them(
    tmp_path: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, storage = small_sweep(tmp_path), tmp_path / "store"
    assert run_here(sweep, storage) == 0
    store, path = Store.open(str(storage)), PLACES["weights"](storage)
    for shard in (storage / "metrics").rglob("*.parquet"):
        shard.unlink()
    _cut(path)
    capsys.readouterr()
    assert run_here(sweep, storage) == 1
    said = capsys.readouterr().err
    assert str(path) in store.read_table("failures")["exception"].to_pylist()[0]
    assert (
        "gc --damaged --deep --delete" in store.read_table("failures")["exception"].to_pylist()[0]
    )
    # Of 12 measurements: accuracy and hessian of the trial, distance and cka of its cell.
    assert "8 of 12 jobs stored, 4 failed" in said
    delete_garbage(store, find_damage(store).garbage)
    assert run_here(sweep, storage) == 0
    assert_same_results(storage, undisturbed)


def test_a_training_whose_snapshot_is_cut_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path
) -> None:
    from phasegrid.run import places
    from phasegrid.run.executors.base import PackOptions

    def often(*args: Any, **options: Any) -> PackOptions:
        return PackOptions(*args, **options, snapshot_every_s=0.0)

    monkeypatch.setattr(places, "PackOptions", often)
    sweep, storage = small_sweep(tmp_path), tmp_path / "store"
    store = Store.open(str(storage), create=True)
    with monkeypatch.context() as dying:

        def dies(*_: object) -> None:
            raise KeyboardInterrupt

        dying.setattr(Store, "put_trial", dies)
        assert run_here(sweep, storage) == 130
    snapshots = list((storage / "snapshots").rglob("*.safetensors"))
    assert snapshots
    for path in snapshots:
        _cut(path)
    assert run_here(sweep, storage) == 0
    notes = store.read_table("failures")["exception"].to_pylist()
    assert 0 < len(notes) <= len(snapshots)  # one is enough for a whole stack to begin anew
    assert all("the training begins anew" in note for note in notes)
    assert_same_results(storage, undisturbed)
    assert verify(store, deep=True) == []
