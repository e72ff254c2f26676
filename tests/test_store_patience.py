"""What passes by itself is tried again, a few times and ever more slowly; what does not is said at
once.
"""

import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from store_support import make_store

from phasegrid.errors import StoreError
from phasegrid.store.files import local
from phasegrid.store.files.errors import reported
from phasegrid.store.files.local import LocalFiles
from phasegrid.store.files.objects import ObjectFiles
from phasegrid.store.files.retry import WAITS_S, PatientFiles, is_full, may_pass

PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY, errno.ECONNRESET)
LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.ENAMETOOLONG)


class Failing:
    """A folder whose next requests raise what is in `errors`; with `after`, only once the request
    is done.
    """

    def __init__(self, folder: Path, errors: list[Exception], after: bool = False) -> None:
        self.local, self.errors, self.after = LocalFiles(str(folder)), errors, after
        self.asked = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def request(*args: Any) -> Any:
            self.asked += 1
            answer = getattr(self.local, name)(*args) if self.after or not self.errors else None
            if self.errors:
                raise self.errors.pop(0)
            return answer

        return request


def _patient(inner: Any) -> tuple[PatientFiles, list[float]]:
    slept: list[float] = []
    return PatientFiles(inner, sleep=slept.append, draw=lambda: 0.5), slept


@pytest.mark.parametrize("number", PASSING)
def test_what_passes_is_tried_again_and_succeeds(tmp_path: Path, number: int) -> None:
    failing = Failing(tmp_path, [OSError(number, "for a moment")] * len(WAITS_S))
    patient, slept = _patient(failing)
    assert patient.create("x", b"data")
    assert slept == list(WAITS_S)
    assert patient.read("x") == b"data"


@pytest.mark.parametrize("number", LASTING)
def test_what_does_not_pass_is_said_at_once(tmp_path: Path, number: int) -> None:
    failing = Failing(tmp_path, [OSError(number, "for good")] * 9)
    patient, slept = _patient(failing)
    with pytest.raises(OSError, match="for good"):
        patient.create("x", b"data")
    assert (slept, failing.asked) == ([], 1)


def test_a_missing_file_is_no_trouble_of_the_storage(tmp_path: Path) -> None:
    patient, slept = _patient(LocalFiles(str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        patient.read("nowhere")
    assert slept == []


def test_tries_come_to_an_end_and_are_counted(tmp_path: Path) -> None:
    patient, slept = _patient(Failing(tmp_path, [TimeoutError("no answer")] * 9))
    with (
        pytest.raises(StoreError, match=r"asking: TimeoutError: no answer \(tried 4 times\)") as it,
        reported("asking"),
    ):
        patient.names("trials")
    assert it.value.fault == "fails"
    assert slept == list(WAITS_S)


def test_waits_are_drawn_around_their_lengths(tmp_path: Path) -> None:
    """Workers that were refused together do not come back together."""
    drawn = iter((0.0, 0.5, 0.75))
    slept: list[float] = []
    failing = Failing(tmp_path, [TimeoutError("no answer")] * 3)
    patient = PatientFiles(failing, (1.0, 2.0, 8.0), slept.append, lambda: next(drawn))  # type: ignore[arg-type]
    assert patient.names("trials") == []
    assert slept == [0.5, 2.0, 10.0]


def test_waits_follow_no_seed(tmp_path: Path) -> None:
    """A plug-in that seeds Python's generator in every worker has them neither wait alike nor lose
    a draw.
    """
    waits = []
    for _ in range(2):
        random.seed(0)
        slept: list[float] = []
        patient = PatientFiles(
            Failing(tmp_path, [TimeoutError("no answer")] * 3), sleep=slept.append
        )  # type: ignore[arg-type]
        patient.names("trials")
        assert all(w / 2 <= s <= w * 1.5 for w, s in zip(WAITS_S, slept, strict=True))
        waits.append(slept)
        after = random.random()
        random.seed(0)
        assert after == random.random()
    assert waits[0] != waits[1]


def test_waiting_is_said_from_the_second_time_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    patient, _ = _patient(Failing(tmp_path, [TimeoutError("no answer")] * 2))
    assert patient.names("trials") == []
    assert [record.getMessage() for record in caplog.records] == [
        "the storage does not answer (no answer): trying again in 2 s"
    ]


def test_advice_is_given_where_an_object_store_gives_none() -> None:
    for name, kind, words in (
        ("The specified bucket does not exist", FileNotFoundError, "make the bucket first"),
        ("no keys", type("NoCredentialsError", (Exception,), {}), "set AWS_ACCESS_KEY_ID"),
        ("no host", type("EndpointConnectionError", (Exception,), {}), "is AWS_ENDPOINT_URL right"),
    ):
        with pytest.raises(StoreError, match=words), reported("opening store s3://x"):
            raise kind(name)


REQUESTS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("names", ("",)),
    ("entries", ("",)),
    ("folders", ("",)),
    ("exists", ("x",)),
    ("read", ("x",)),
    ("size", ("x",)),
    ("modified", ("x",)),
    ("create", ("y", b"1")),
    ("delete", ("x",)),
)


@pytest.mark.parametrize(("name", "args"), REQUESTS)
def test_every_request_is_patient_and_gives_the_same_answer(
    tmp_path: Path, name: str, args: tuple[Any, ...]
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "x").write_bytes(b"data")
    once = getattr(LocalFiles(str(tmp_path)), name)
    patient, slept = _patient(Failing(tmp_path, [OSError(errno.EIO, "x")]))
    found = getattr(patient, name)(*args)
    assert len(slept) == 1
    if name not in ("create", "delete"):
        assert found == once(*args)


def test_a_lost_answer_to_a_first_write_still_means_that_we_wrote(tmp_path: Path) -> None:
    patient, _ = _patient(Failing(tmp_path, [OSError(errno.ETIMEDOUT, "lost")], after=True))
    assert patient.create("x", b"ours")
    assert not patient.create("x", b"ours")


def test_a_write_that_lost_while_it_waited_says_so(tmp_path: Path) -> None:
    failing = Failing(tmp_path, [OSError(errno.EIO, "x")])

    def other_writes(_seconds: float) -> None:
        failing.local.create("x", b"theirs")

    assert not PatientFiles(failing, sleep=other_writes).create("x", b"ours")  # type: ignore[arg-type]
    assert failing.local.read("x") == b"theirs"


def test_a_replacement_is_written_from_the_beginning_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, errors = local.os.fsync, [OSError(errno.EIO, "the disk hiccups")]

    def once(descriptor: int) -> None:
        if errors:
            raise errors.pop()
        fsync(descriptor)

    monkeypatch.setattr(local.os, "fsync", once)
    patient, slept = _patient(LocalFiles(str(tmp_path)))

    def write(file: BinaryIO) -> None:
        file.write(b"all ")
        file.write(b"of it")

    (tmp_path / "folder").mkdir()
    (tmp_path / "_tmp").mkdir()
    patient.replace("folder/x", write)
    assert patient.read("folder/x") == b"all of it"
    assert patient.names("_tmp") == []
    assert len(slept) == 1


def test_compaction_survives_a_write_that_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from store_support import bare, put

    from phasegrid.store.compact import compact

    store = make_store(tmp_path)
    for name in ("a", "b"):
        put(store, "trials", bare("trials", name))
    replace, errors = LocalFiles.replace, [OSError(errno.ESTALE, "Stale file handle")]

    def once(self: LocalFiles, *args: Any) -> bool:
        done = replace(self, *args)
        if errors:
            raise errors.pop()
        return done

    monkeypatch.setattr(LocalFiles, "replace", once)
    store = type(store)(
        store.url, PatientFiles(LocalFiles(store.url), sleep=lambda _s: None), store.id
    )
    (table,) = compact(store).tables
    assert (table.num_new_files, table.num_rows) == (2, 2)
    assert len(store.read_table("trials")) == 2


def test_a_full_storage_is_called_so_and_so_is_one_that_fails() -> None:
    with (
        pytest.raises(StoreError, match=r"writing: the storage is full.*make room") as full,
        reported("writing"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(StoreError, match="writing: permission denied") as denied,
        reported("writing"),
    ):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(StoreError, match="reading: FileNotFoundError") as gone, reported("reading"):
        raise FileNotFoundError(errno.ENOENT, "gone")
    with pytest.raises(StoreError, match="reading: KeyError") as bug, reported("reading"):
        raise KeyError("x")
    faults = [error.value.fault for error in (full, denied, gone, bug)]
    assert faults == ["full", "fails", None, None]
    assert is_full(OSError(errno.EDQUOT, "x"))
    assert not may_pass(KeyError("x"))


# --- object stores: what a server answers to a conditional write


class Refusing:
    """A file system that refuses conditional writes with one error."""

    def __init__(self, error: Exception) -> None:
        self.error, self.kept = error, {}  # type: ignore[var-annotated]

    def isfile(self, path: str) -> bool:
        return path in self.kept

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise self.error
        self.kept[path] = value


def _answer(code: str, number: int) -> OSError:
    """What s3fs makes of a server's answer."""
    error = OSError(number, f"the server says {code}")
    error.__cause__ = Exception()
    error.__cause__.response = {"Error": {"Code": code}}  # type: ignore[attr-defined]
    return error


def test_a_server_that_does_not_name_the_condition_still_says_that_the_name_is_taken() -> None:
    inner = Refusing(_answer("PreconditionFailed", errno.EINVAL))
    assert not ObjectFiles(inner, "bucket").create("x", b"late")
    assert inner.kept == {}


@pytest.mark.parametrize(
    "error",
    [_answer("NotImplemented", errno.ENOSYS), NotImplementedError("no")],
    ids=["s3", "other"],
)
def test_a_server_without_conditional_writes_gets_a_plain_one(error: Exception) -> None:
    inner = Refusing(error)
    files = ObjectFiles(inner, "bucket")
    assert files.create("x", b"first")
    assert not files.create("x", b"second")
    assert inner.kept == {"bucket/x": b"first"}


def test_another_refusal_is_an_error() -> None:
    with pytest.raises(OSError, match="InvalidRequest"):
        ObjectFiles(Refusing(_answer("InvalidRequest", errno.EINVAL)), "b").create("x", b"")
