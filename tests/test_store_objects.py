"""A store on an object store: an fsspec file system in memory here, a local S3 server in the slow
test.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from store_support import COLUMNS, SCHEMAS, bare, full, leave, put

from phasegrid.errors import StoreError
from phasegrid.keys import text_key
from phasegrid.run.verify import verify
from phasegrid.store.compact import compact
from phasegrid.store.files.objects import ObjectFiles
from phasegrid.store.files.opening import open_files
from phasegrid.store.results import open_results
from phasegrid.store.store import Store

A = text_key("a")


@pytest.fixture
def url() -> Iterator[str]:
    name = uuid.uuid4().hex
    yield f"memory://{name}/store"
    memory = fsspec.filesystem("memory")
    if memory.exists(f"/{name}"):
        memory.rm(f"/{name}", recursive=True)


def _round_trip(url: str) -> None:
    """Do with a store what a sweep does."""
    import torch

    with pytest.raises(StoreError, match="no phasegrid store there"):
        Store.open(url)
    store = Store.open(url, create=True)
    assert Store.open(url, create=True).id == store.id
    assert store.stored("trials") == set()
    assert store.metrics() == []
    weights = {"w": torch.arange(3.0)}
    left = leave(store, "a", "epoch-1", weights)
    assert store.put_trial(bare("trials", "a"), [{"epoch": 0}], weights, left)
    assert not store.put_trial(bare("trials", "a"), [{"epoch": 1}], weights)
    for table in SCHEMAS:
        if table != "histories":
            put(store, table, full(table, "b"))
    assert store.stored("trials") == {A, text_key("b")}
    assert store.metrics() == ["sharpness"]
    assert store.read_checkpoint(A)["w"].tolist() == [0.0, 1.0, 2.0]
    assert store.read_table("histories")["epoch"].to_pylist() == [0]
    before = store.read_table("trials")
    assert len(compact(store).tables) == 4
    assert store.read_table("trials").equals(before)
    snapshots = store.snapshots()
    for epoch in (1, 2):
        snapshots.save(A, epoch, weights, {"epoch": epoch})
    assert snapshots.epochs(A) == {1, 2}
    assert snapshots.load(A, 2)[1] == {"epoch": 2}  # type: ignore[index]
    snapshots.delete(A, {1, 2})
    assert snapshots.epochs(A) == set()
    assert [p.what for p in verify(store, deep=True) if "planned" not in p.what] == []
    assert len(open_results(url).trials()) == 2


def test_a_store_lives_in_memory(url: str) -> None:
    _round_trip(url)


def test_an_object_that_is_there_is_kept(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = open_files(url)
    assert files.create("x/y", b"first")
    monkeypatch.setattr(ObjectFiles, "exists", lambda *_: False)  # another writer was faster
    assert not files.create("x/y", b"second")
    assert files.read("x/y") == b"first"


def test_a_server_without_conditional_writes_still_keeps_what_is_there(url: str) -> None:
    class Plain:
        """A file system whose `pipe_file` knows no mode, or whose server does not."""

        def __init__(self, knows_mode: bool) -> None:
            self.memory = fsspec.filesystem("memory")
            self.pipe_file: Any = self._with_mode if knows_mode else self._without

        def isfile(self, path: str) -> bool:
            return bool(self.memory.isfile(path))

        def _without(self, path: str, value: bytes) -> None:
            self.memory.pipe_file(path, value)

        def _with_mode(self, path: str, value: bytes, mode: str = "overwrite") -> None:
            if mode == "create":
                raise NotImplementedError("A header you provided implies functionality")
            self.memory.pipe_file(path, value)

    for knows_mode in (True, False):
        files = ObjectFiles(Plain(knows_mode), url.removeprefix("memory:/") + str(knows_mode))
        assert files.create("x", b"first")
        assert not files.create("x", b"second")
        assert open_files(f"memory:/{files.root}").read("x") == b"first"


def test_an_object_store_that_fails_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCredentialsError(Exception):
        """What botocore raises is no OSError."""

    store = Store.open(url, create=True)

    def fails(*_: Any, **__: Any) -> None:
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(type(store.files.inner.filesystem), "find", fails)  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match=r"listing table trials .*NoCredentialsError: Unable"):
        store.stored("trials")


def test_listings_are_never_remembered(url: str) -> None:
    one, two = Store.open(url, create=True), Store.open(url)
    assert two.stored("metrics/sharpness") == set()
    one.put_metric("sharpness", COLUMNS, bare("metrics/sharpness", "a"), [{"value": 1.0}])
    assert two.stored("metrics/sharpness") == {A}


def test_a_sweep_runs_in_an_object_store_and_a_second_time_has_nothing_to_do(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.faults.test_storage_faults import run_here, small_sweep

    sweep = small_sweep(tmp_path)
    sweep.write_text(f"{sweep.read_text()}storage: {url}\n")
    assert run_here(sweep, None) == 0
    assert "16 of 16 jobs stored" in capsys.readouterr().err
    assert verify(Store.open(url), deep=True) == []
    assert len(open_results(url).cells("tiny")) == 4
    assert run_here(sweep, None) == 0
    assert "0 to do" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_store_lives_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    from s3_server import BUCKET, s3_server

    url = f"s3://{BUCKET}/some/store"
    with s3_server(monkeypatch):
        _round_trip(url)
        files = open_files(url)
        assert files.create("meta/once", b"first")
        monkeypatch.setattr(ObjectFiles, "exists", lambda *_: False)
        assert not files.create("meta/once", b"second")
        assert files.read("meta/once") == b"first"
