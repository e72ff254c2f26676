"""Before the first job every node tries the storage: one that is not shared, not writable, full, or
of another time is named.
"""

import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_support import make_store

from phasegrid.errors import StoreError
from phasegrid.run.executors.ray.probe import (
    MAX_SKEW_S,
    WARN_SKEW_S,
    Question,
    Report,
    Sight,
    ask,
    blame_node,
    forget,
    judge,
    look,
    read_answer,
    skew_s,
)
from phasegrid.store import store
from phasegrid.store.files.local import LocalFiles
from phasegrid.store.files.probing import PROBE_BYTES
from phasegrid.store.files.retry import PatientFiles
from phasegrid.store.store import Store

NO_SLEEP = [].append


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(store, "PatientFiles", lambda f: PatientFiles(f, sleep=NO_SLEEP))
    return make_store(tmp_path)


@pytest.fixture
def question(here: Store) -> Iterator[Question]:
    asked = ask(here.url, here.id)
    yield asked
    forget(asked)
    assert here.files.names("_tmp") == []


def _answered(question: Question, sight: Sight) -> Report:
    return read_answer(question, "n1", sight, time.time(), time.time(), NO_SLEEP)


# --- what a node sees


def test_a_node_that_shares_the_storage_has_nothing_to_say(question: Question) -> None:
    report = _answered(question, look(question, NO_SLEEP))
    assert (report.sight.problem, report.seen) == (None, True)
    assert judge(question.url, [report]) == []


def test_a_node_without_a_store_there_says_so(question: Question, tmp_path: Path) -> None:
    elsewhere = Question(str(tmp_path / "x"), question.store_id, question.name, question.text)
    assert "no phasegrid store there" in str(look(elsewhere, NO_SLEEP).problem)


def test_a_node_with_another_store_there_says_so(question: Question, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other")
    elsewhere = Question(other.url, question.store_id, question.name, question.text)
    assert "another store there" in str(look(elsewhere, NO_SLEEP).problem)


def test_a_copy_of_the_store_is_not_the_store(
    question: Question, here: Store, tmp_path: Path
) -> None:
    """A machine's image may hold a copy of the folder: the id is the same, what the driver writes
    now is not there.
    """
    copy = tmp_path / "copy"
    (copy / "meta").mkdir(parents=True)
    (copy / "meta/store.json").write_bytes(here.files.read("meta/store.json"))
    elsewhere = Question(str(copy), question.store_id, question.name, question.text)
    waits: list[float] = []
    sight = look(elsewhere, waits.append)
    assert sight.problem == "does not see what the driver wrote there: the storage is not shared"
    assert len(waits) == 3  # a network file system may show a new file late


def test_an_answer_that_the_driver_does_not_see_is_a_problem(
    question: Question, here: Store
) -> None:
    sight = look(question, NO_SLEEP)
    here.files.delete(sight.answer)
    report = _answered(question, sight)
    with pytest.raises(StoreError, match=r"node n1: the driver does not see what it wrote"):
        judge(question.url, [report])


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "Read-only file system"),
        (errno.ENOSPC, "the storage is full"),
        (errno.EDQUOT, "the storage is full"),
        (errno.EIO, "tried 4 times"),
    ],
)
def test_a_node_that_cannot_write_says_why(
    question: Question, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuses(*_: Any) -> bool:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as ill:
        ill.setattr(LocalFiles, "create", refuses)
        assert words in str(look(question, NO_SLEEP).problem)


def test_a_node_writes_as_much_as_small_weights(
    question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, sizes = LocalFiles.create, []

    def measured(files: LocalFiles, name: str, data: bytes) -> bool:
        sizes.append(len(data))
        return create(files, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "create", measured)
        _answered(question, look(question, NO_SLEEP))
    assert sizes == [PROBE_BYTES + len(question.text)]
    assert PROBE_BYTES >= 2**22


# --- what the driver makes of it


def _report(now: float | None = 105.0, modified: float | None = None, **more: Any) -> Report:
    return Report("n1", Sight(None, "answer", now), 100.0, 110.0, modified=modified, **more)


@pytest.mark.parametrize(
    ("now", "modified", "skew"),
    [
        (105.0, None, 0.0),
        (100.0, 110.0, 0.0),  # anywhere between question and answer is right
        (99.0, None, -1.0),
        (112.5, 105.0, 2.5),
        (105.0, 90.0, -10.0),  # the storage's time for a file counts as the node's word does
        (111.0, 40.0, -60.0),
        (None, None, 0.0),
    ],
)
def test_a_clock_is_off_by_what_lies_outside_of_question_and_answer(
    now: float | None, modified: float | None, skew: float
) -> None:
    assert skew_s(_report(now, modified)) == skew


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_clock_that_is_a_minute_off_is_a_warning_that_names_the_node(sign: int) -> None:
    def at(skew: float) -> Report:
        return _report(100.0 - skew if sign < 0 else 110.0 + skew)

    assert judge("url", [at(WARN_SKEW_S)]) == []
    (warning,) = judge("url", [at(WARN_SKEW_S + 1), _report()])
    word = "behind" if sign < 0 else "ahead of"
    assert warning.startswith(f"node n1: its clock is 61 s {word} the driver's")
    assert judge("url", [at(MAX_SKEW_S)])


def test_a_clock_that_is_half_a_day_off_is_an_error() -> None:
    with pytest.raises(StoreError, match=r"node n1: its clock is 43201 s behind .*gc. depends on"):
        judge("url", [_report(100.0 - MAX_SKEW_S - 1)])


def test_every_node_that_cannot_be_used_is_named_at_once() -> None:
    reports = [
        Report("n1", Sight("permission denied"), 0.0, 1.0),
        Report("n2", Sight(None, "a", 0.5), 0.0, 1.0),
        Report("n3", Sight("gave no answer within 120 s"), 0.0, 1.0),
    ]
    with pytest.raises(
        StoreError, match=r"storage s3://b: node n1: permission .*; node n3: gave no"
    ):
        judge("s3://b", reports)


# --- storage that fails during a run, on one node or for all


def test_a_node_is_blamed_where_the_driver_finds_the_storage_well(here: Store) -> None:
    assert (
        blame_node(StoreError("writing x: EIO", "fails"), here.url) == "StoreError: writing x: EIO"
    )


def test_a_full_storage_is_full_for_every_node(here: Store) -> None:
    with pytest.raises(StoreError, match="is full"):
        blame_node(StoreError("writing x: it is full", "full"), here.url)


def test_storage_that_fails_for_the_driver_too_ends_the_run(
    here: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(LocalFiles, "create", refuses)
    with pytest.raises(StoreError, match=r"writing to store .*Input/output error.*tried 4 times"):
        blame_node(StoreError("writing x: EIO", "fails"), here.url)


def _ending_of(error: StoreError, url: str) -> Any:
    import ray

    from phasegrid.packs import Pack
    from phasegrid.run.executors.ray.losses import ending_of_error

    pack: Any = Pack.__new__(Pack)
    return ending_of_error(pack, ray.exceptions.RayTaskError("do", "a traceback", error), url)


def test_a_pack_that_met_failing_storage_is_lost_to_its_node(here: Store) -> None:
    ending = _ending_of(StoreError("writing x: EIO", "fails"), here.url)
    assert (ending.lost, ending.kind) == ("StoreError: writing x: EIO", "infra")


def test_a_node_that_lost_its_storage_loses_its_packs(here: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no phasegrid store there") as unmounted:
        Store.open(str(tmp_path / "unmounted"))
    assert blame_node(unmounted.value, here.url).startswith("StoreError: opening store")
    assert unmounted.value.fault == "fails"


def test_a_pack_that_met_a_damaged_file_is_not_the_fault_of_its_node(here: Store) -> None:
    ending = _ending_of(StoreError("reading x: not whole"), here.url)
    assert (ending.lost, ending.kind) == ("StoreError: reading x: not whole", "app")


def test_a_pack_that_met_a_full_storage_ends_the_run(here: Store) -> None:
    with pytest.raises(StoreError, match="x: full"):
        _ending_of(StoreError("writing x: full", "full"), here.url)


# --- a real cluster of two nodes on this machine


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Two nodes whose home folders differ: ``~/store`` is a place of its own on each. Gives address
    and the other's id.
    """
    pytest.importorskip("ray.cluster_utils")
    from ray.cluster_utils import Cluster

    homes = {name: tmp_path / name for name in ("driver", "other")}
    for home in homes.values():
        home.mkdir()
    for name, value in {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRAFANA_HOST": "",
        "NO_PROXY": "*",
    }.items():
        monkeypatch.setenv(name, value)
    options = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster()
    try:
        monkeypatch.setenv("HOME", str(homes["driver"]))
        cluster.add_node(**options)
        monkeypatch.setenv("HOME", str(homes["other"]))
        other = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
        cluster.wait_for_nodes()
        monkeypatch.setenv("HOME", str(homes["driver"]))
        yield cluster.address, other.node_id[:8]
    finally:
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_of_two_real_nodes_the_one_that_sees_another_folder_is_named(
    two_nodes: tuple[str, str], tmp_path: Path
) -> None:
    from tests.faults.test_kill_and_resume import command, write_sweep

    address, other = two_nodes
    sweep = write_sweep(tmp_path, epochs=1)
    unshared = _run([*command(sweep, Path("~/store")), "--address", address])
    assert unshared.returncode == 4, unshared.stderr
    assert "checking that every node shares the storage ~/store" in unshared.stderr
    assert f"{other}): opening store ~/store: no phasegrid store there" in unshared.stderr
    assert unshared.stderr.count("node ") >= 1
    assert unshared.stderr.count("no phasegrid store there") == 1
    assert "Traceback" not in unshared.stderr
    assert not list((tmp_path / "driver/store").rglob("trials"))
    # Where both see one folder, the run goes on.
    (tmp_path / "other/store").symlink_to(tmp_path / "driver/store")
    shared = _run([*command(sweep, Path("~/store")), "--address", address, "--limit", "1"])
    assert shared.returncode == 3, shared.stderr
    assert list((tmp_path / "driver/store/trials").rglob("*.parquet"))


def _run(arguments: list[str]) -> Any:
    import subprocess

    assert arguments[0] == sys.executable
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300)
