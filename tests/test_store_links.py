"""Nothing in a store follows a link, and what stands in a result's place is never taken for the
result.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from store_support import COLUMNS, bare, make_store

from phasegrid.errors import StoreError
from phasegrid.keys import text_key
from phasegrid.run.verify import verify
from phasegrid.store import committing
from phasegrid.store.compact import compact
from phasegrid.store.files import local
from phasegrid.store.gc import delete_garbage, find_garbage
from phasegrid.store.repair import find_damage
from phasegrid.store.store import Store
from tests.faults.test_storage_faults import run_here, small_sweep

A, M = text_key("a"), text_key("m")
ROW = f"trials/{A[:2]}/{A}.parquet"
METRIC = f"metrics/sharpness/{M[:2]}/{M}.parquet"
TAKERS: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "dangling link": lambda path: path.symlink_to("/nonexistent/x"),
    "link to a file": lambda path: path.symlink_to(Path(__file__)),
    "link to a folder": lambda path: path.symlink_to(Path(__file__).parent),
    "pipe": os.mkfifo,
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    import torch

    store = make_store(tmp_path)
    store.put_trial(bare("trials", "a"), [{"epoch": 0}], {"w": torch.ones(2)})
    store.put_metric("sharpness", COLUMNS, bare("metrics/sharpness", "m"), [{"value": 1.0}])
    store.put_plan("toy", [{"cell": 0, "seed": 0, "key": A}])
    return store


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of someone else's, all of it old, with files named like ours."""
    folder = tmp_path / "outside"
    names = ("thesis.tex", f"x.{A}", f"{A}.safetensors", f"{A}.epoch-1.safetensors", f"{A}.parquet")
    folder.mkdir()
    for name in names:
        (folder / name).write_text("precious")
        os.utime(folder / name, (0, 0))
    return folder


def _path(store: Store, name: str) -> Path:
    return Path(store.files.path(name))


@pytest.mark.parametrize(
    "place",
    [
        "_tmp/x",
        f"checkpoints/{'b' * 2}",
        "snapshots/cd",
        "histories/ef",
        "trials/ab",
        "metrics/hessian",
    ],
)
@pytest.mark.parametrize("orphans", [False, True])
def test_collecting_never_leaves_the_store(
    store: Store, outside: Path, place: str, orphans: bool
) -> None:
    link = _path(store, place)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    before = sorted(path.name for path in outside.iterdir())
    now = time.time()
    for path in _path(store, "").rglob("*"):
        os.utime(path, (now - 9e6, now - 9e6), follow_symlinks=False)
    found = find_garbage(store, shards_too=orphans, orphans_too=orphans)
    assert not [item for item in found.garbage if item.name.startswith(place)]
    delete_garbage(store, found.garbage)
    delete_garbage(store, find_damage(store, deep=True).garbage)
    assert sorted(path.name for path in outside.iterdir()) == before
    assert link.is_symlink()
    assert f"{place}: is a link" in "\n".join(map(str, verify(store)))


@pytest.mark.parametrize("kind", TAKERS)
@pytest.mark.parametrize("name", [ROW, METRIC])
def test_what_stands_in_a_results_place_is_named_and_counts_as_nothing(
    store: Store, name: str, kind: str
) -> None:
    path = _path(store, name)
    path.unlink()
    TAKERS[kind](path)
    table, _, rest = name.rpartition(f"/{path.parent.name}/")
    key = rest.removesuffix(".parquet")
    assert store.stored(table) == set()
    assert len(store.read_table(table)) == 0
    with pytest.raises(StoreError, match=rf"{path} is .*move it away, then run again"):
        store.has(table, key)
    with pytest.raises(StoreError, match=rf"{path} is "):
        store.files.create(name, b"data")
    with pytest.raises(StoreError, match=rf"{path} is "):
        store.files.replace(name, lambda file: file.write(b"data"))
    with pytest.raises(StoreError, match=rf"{path} is "):
        store.files.delete(name)
    assert f"{path}: is " in "\n".join(map(str, verify(store)))
    assert [str(path) in note and "move it away" in note for note in find_damage(store).kept] == [
        True
    ]
    assert os.path.lexists(path)


@pytest.mark.parametrize(
    ("table", "kind"), [("trials", "folder"), ("metrics/accuracy", "dangling link")]
)
def test_a_run_fails_the_job_whose_place_is_taken_and_names_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, kind: str
) -> None:
    sweep, storage = small_sweep(tmp_path), tmp_path / "store"
    assert run_here(sweep, storage) == 0
    path = min((storage / table).rglob("*.parquet"))
    path.unlink()
    TAKERS[kind](path)
    capsys.readouterr()
    assert run_here(sweep, storage) == 1
    said = capsys.readouterr().err
    assert "15 stored, 1 to do" in said
    assert "1 failed" in said
    assert f"{path} is a" in said
    path.rmdir() if path.is_dir() else path.unlink()
    assert run_here(sweep, storage) == 0
    assert verify(Store.open(str(storage))) == []


@pytest.mark.parametrize("kind", TAKERS)
def test_a_name_that_is_taken_between_two_looks_is_no_other_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    there = local.LocalFiles(str(tmp_path))
    monkeypatch.setattr(local.LocalFiles, "exists", lambda *_: False)
    TAKERS[kind](tmp_path / "x.parquet")
    with pytest.raises(StoreError, match=r"x\.parquet is .*move it away"):
        there.create("x.parquet", b"data")


def test_a_commit_is_not_done_where_its_last_file_cannot_be(store: Store) -> None:
    _path(store, ROW).unlink()
    _path(store, ROW).symlink_to("/nonexistent/x")
    with pytest.raises(StoreError, match="is a link where a file of the store should be"):
        committing.commit(store.files, {"histories/x.parquet": b"part"}, ROW, b"row")


@pytest.mark.parametrize("folder", ["trials", "_tmp", f"trials/{A[:2]}"])
def test_a_folder_that_is_a_link_is_not_written_through(
    store: Store, outside: Path, folder: str
) -> None:
    _path(store, ROW).unlink()
    path = _path(store, folder)
    path.rename(path.with_name("moved"))
    path.symlink_to(outside)
    before = sorted(p.name for p in outside.iterdir())
    with pytest.raises(
        StoreError, match=rf"{path} is a link where a folder of the store should be"
    ):
        store.put_trial(bare("trials", "a"), [{"epoch": 0}], {})
    assert sorted(p.name for p in outside.iterdir()) == before


def test_a_store_whose_own_folder_is_a_link_is_a_store_like_any(
    store: Store, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(store.url)
    linked = Store.open(str(link), create=True)
    assert linked.id == store.id
    linked.put_trial(bare("trials", "c"), [{"epoch": 0}], {})
    assert linked.stored("trials") == {A, text_key("c")}
    assert compact(linked).tables
    assert [p.what for p in verify(linked, deep=True)] == []
    assert find_damage(linked, deep=True).garbage == ()
    assert find_garbage(linked, orphans_too=True).garbage == ()
