"""What the store knows of submitted runs, with no cluster anywhere."""

import json
import os
import re
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phasegrid.cli.main import app
from phasegrid.config.types import RunOptions
from phasegrid.errors import ClusterError, DataError, StoreError, SweepError, exit_code
from phasegrid.packs import Pack
from phasegrid.redaction import redact, refuse_secrets
from phasegrid.run.executors.base import PackResult
from phasegrid.run.loop import run_packs
from phasegrid.run.scheduler import Scheduler
from phasegrid.run.stopping import Stop
from phasegrid.store import submissions
from phasegrid.store.store import Store
from phasegrid.store.submissions import Job, Submission, state_of
from phasegrid.submit import driver as driver_module
from phasegrid.submit import logs as reading_logs
from phasegrid.submit.driver import driver_of
from tests.test_scheduler import train
from tests.test_session import PLUGIN, SWEEP

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ID = "pg-small-20260102T030405-00c0ffee"
TOKEN = "a-token-that-nobody-may-see-0123456789"


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


SUBMITTED = Submission(ID, "small", ago(600))
RUNNING = replace(SUBMITTED, started_at=ago(590), seen_at=ago(42))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"), create=True)


def invoke(*arguments: str) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it printed, its error too."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is None or isinstance(result.exception, SystemExit):
        return result.exit_code, result.output
    return exit_code(result.exception), f"{result.output}{result.exception}"


def test_ids_name_the_sweep_and_are_never_the_same() -> None:
    ids = {submissions.draw_id("a/b c", NOW) for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(r"pg-a-b-c-20260102T030405-[0-9a-f]{8}", each) for each in ids)
    assert submissions.draw_id("///", NOW).startswith("pg-sweep-")


@pytest.mark.parametrize(
    ("submission", "job", "state", "says"),
    [
        (SUBMITTED, None, "pending", "submitted 10 min 00 s ago, its driver has not started"),
        (RUNNING, None, "running", "running when last seen, 42 s ago"),
        (replace(RUNNING, seen_at=ago(59)), None, "silent", r"no record since 2026-01-02 03:03:06 UTC \(59 s ago\)"),
        (RUNNING, Job(ID, "RUNNING"), "running", "running on the cluster"),
        (SUBMITTED, Job(ID, "PENDING"), "pending", "waiting on the cluster"),
        (RUNNING, Job(ID, None), "lost", "the cluster does not know it; submit the sweep again"),
        (RUNNING, Job(ID, "FAILED", 137), "lost", r"FAILED, exit code 137 \(killed\)"),
        (replace(RUNNING, ended_at=ago(5), exit_code=1), Job(ID, None), "ended", r"1 \(some jobs failed\)"),
        (replace(RUNNING, ended_at=ago(5)), None, "ended", "exit code unknown"),
    ],
)  # fmt: skip
def test_the_state_is_the_stores_last_word_then_the_clusters_then_the_last_sign_of_life(
    submission: Submission, job: Job | None, state: str, says: str
) -> None:
    found, words = state_of(submission, NOW, job)
    assert found == state
    assert re.search(says, words)


def test_what_a_later_submission_went_on_from_is_not_told_of_any_more() -> None:
    """A driver that was lost has no last word; its sweep may have been finished by another
    since.
    """
    names = ("lost", "running", "ended", "other")
    states = ("silent", "running", "ended", "lost")
    known = [
        (replace(RUNNING, id=name, sweep="b" if name == "other" else "a"), (state, ""))
        for name, state in zip(names, states, strict=True)
    ]
    assert [s.id for s, _ in submissions.current(known)] == ["running", "ended", "other"]  # type: ignore[arg-type]
    assert [s.id for s, _ in submissions.current(known[:1])] == ["lost"]  # type: ignore[arg-type]


def test_only_the_last_of_a_sweep_is_to_be_submitted_again() -> None:
    silent = replace(RUNNING, seen_at=ago(400))
    known = [(s, state_of(s, NOW, None)) for s in (silent, replace(silent, id="later"))]
    first, second = submissions.lines(known)
    assert first.endswith("a later submission went on")
    assert second.endswith("submit the sweep again to go on")


def test_whoever_records_first_is_not_overwritten_by_the_submitter(store: Store) -> None:
    submissions.replace_record(store, RUNNING)
    assert not submissions.create(store, SUBMITTED)
    assert submissions.read(store, ID) == RUNNING
    later = replace(SUBMITTED, id=ID + "b", created_at=ago(1), sweep="other")
    assert submissions.create(store, later)
    assert submissions.read_all(store) == [RUNNING, later]
    assert submissions.read_all(store, "other") == [later]


def test_a_field_of_a_newer_phasegrid_is_left_out_and_damage_is_named(store: Store) -> None:
    submissions.replace_record(store, RUNNING)
    path = Path(store.url, f"meta/submissions/{ID}.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "blue"}))
    assert submissions.read(store, ID) == RUNNING
    for damaged in ("{", "[]", '{"id": "x"}'):
        path.write_text(damaged)
        with pytest.raises(StoreError, match=rf"{ID}\.json is damaged"):
            submissions.read(store, ID)


def test_a_path_is_no_id(store: Store) -> None:
    with pytest.raises(StoreError, match="cannot name a file"):
        submissions.read(store, "../../etc/passwd")


def test_a_driver_writes_what_it_says_and_how_it_ended(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with driver_of(Path("small.yaml"), store.url, ID) as driver:
        begun = submissions.read(store, ID)
        assert begun is not None
        assert begun.started_at is not None
        assert begun.ended_at is None
        print("said on stdout")
        print(f"said on stderr with {TOKEN}", file=sys.stderr)
        driver.sweep, driver.code = "its name", 1
    ended = submissions.read(store, ID)
    assert ended is not None
    assert (ended.sweep, ended.exit_code, ended.created_at) == ("its name", 1, begun.created_at)
    assert submissions.read_log(store, ID) == "said on stdout\nsaid on stderr with [token]\n"
    shown = capsys.readouterr()
    assert "said on stdout" in shown.out
    assert "said on stderr with [token]" in shown.err


@pytest.mark.parametrize(
    ("error", "code", "logged"),
    [
        (SweepError("a mistake"), 2, "a mistake\n"),
        (DataError("no data"), 2, "no data\n"),
        (ClusterError("no cluster"), 4, "no cluster\n"),
        (KeyboardInterrupt(), 130, "KeyboardInterrupt\n"),
        (SystemExit(3), 3, "3\n"),
        (SystemExit(signal.SIGTERM.value), 143, "15\n"),
        (ZeroDivisionError("ours"), 1, "ZeroDivisionError: ours\n"),
    ],
)
def test_however_a_driver_ends_its_exit_code_and_last_words_are_stored(
    store: Store, error: BaseException, code: int, logged: str
) -> None:
    with pytest.raises(type(error)), driver_of(Path("small.yaml"), store.url, ID):
        raise error
    record = submissions.read(store, ID)
    assert record is not None
    assert record.exit_code == code
    assert (submissions.read_log(store, ID) or "").endswith(logged)


def test_a_sigterm_before_the_first_pack_is_recorded(store: Store) -> None:
    with pytest.raises(SystemExit, match="143"), driver_of(Path("small.yaml"), store.url, ID):
        os.kill(os.getpid(), signal.SIGTERM)
    record = submissions.read(store, ID)
    assert record is not None
    assert record.exit_code == 143


def test_a_driver_gives_signs_of_life_and_heeds_a_request_to_hurry(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "EARLY_S", ())
    monkeypatch.setattr(driver_module, "EVERY_S", 0.01)
    with driver_of(Path("small.yaml"), store.url, ID) as driver:
        first = submissions.read(store, ID)
        print("more to tell")
        while submissions.read_log(store, ID) is None:
            pass
        while submissions.read(store, ID) == first:
            pass
        assert not driver.stop.hurry()
        submissions.ask_to_hurry(store, ID)
        assert driver.stop.hurry()
        assert driver.stop.grace_s == driver_module.GRACE_S


def test_the_first_words_of_a_driver_do_not_wait_for_a_minute(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sum(driver_module.EARLY_S) < 60
    monkeypatch.setattr(driver_module, "EARLY_S", (0.0, *(0.02,) * 10_000))
    monkeypatch.setattr(driver_module, "EVERY_S", 1e6)
    with driver_of(Path("small.yaml"), store.url, ID):
        print("first words")
        while not (kept := submissions.read_log(store, ID)):
            pass
    assert kept == "first words\n"


def test_a_run_that_cannot_be_recorded_goes_on_and_says_so_once(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StoreError("no room")

    with driver_of(Path("small.yaml"), store.url, ID) as driver:
        monkeypatch.setattr(submissions, "replace_record", fail)
        monkeypatch.setattr(submissions, "must_hurry", fail)
        assert not driver.stop.hurry()
        driver.code = 0
    said = capsys.readouterr().err
    assert said.count("the run goes on, but is not recorded: no room") == 1


def test_a_run_that_was_not_submitted_records_nothing(store: Store) -> None:
    with driver_of(Path("small.yaml"), store.url, None) as driver:
        assert driver.stop.grace_s == 3.0
    assert submissions.read_all(store) == []


class Endless:
    """An executor whose packs never end; a stop is asked for in its first wait."""

    parallel = slots = 1
    gpu = None

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.num_waits = 0

    def submit(self, pack: Pack) -> None:
        """Take a pack."""

    def wait(self, timeout_s: float) -> list[PackResult]:
        """Return nothing."""
        del timeout_s
        self.num_waits += 1
        self.stop.why = "SIGTERM"
        return []

    def close(self) -> None:
        """Give nothing back."""


@pytest.mark.parametrize(("hurried", "num_waits"), [(False, 1 + 20), (True, 1 + 1)])
def test_running_packs_get_their_grace_unless_the_run_must_hurry(
    hurried: bool, num_waits: int
) -> None:
    stop = Stop(grace_s=10.0, hurry=lambda: hurried)
    executor = Endless(stop)
    scheduler = Scheduler([train("t", "a")], set())
    run_packs(scheduler, executor, lambda *_: None, stop, RunOptions(), lambda *_: None)
    assert executor.num_waits == num_waits


@pytest.fixture
def failed(tmp_path: Path) -> str:
    """Return a store with one submitted run, in which width 4 could not be measured."""
    (tmp_path / "lab.py").write_text(PLUGIN)
    sweep, storage = tmp_path / "s.yaml", str(tmp_path / "store")
    sweep.write_text(SWEEP.replace("[accuracy, distance]", "[accuracy, 'lab.py:SIZE']"))
    os.environ[submissions.VARIABLE] = ID
    try:
        code, said = invoke("run", str(sweep), "--storage", storage, "--serial", "--no-plot", "-q")
    finally:
        del os.environ[submissions.VARIABLE]
    assert code == 1, said
    return storage


def test_status_and_list_tell_of_submissions_from_the_store_alone(failed: str) -> None:
    code, said = invoke("status", "--storage", failed)
    assert code == 0
    assert "small: 8/8 trials stored" in said
    assert f"{ID}: ended" in said
    (one,) = json.loads(invoke("status", ID, "--storage", failed, "--json")[1])
    assert one["trials_stored"] == 8
    assert one["submissions"][0]["exit_code"] == 1
    assert f"{ID}: ended" in invoke("list", "--storage", failed)[1]
    assert json.loads(invoke("list", "--storage", failed, "--json")[1])[0]["id"] == ID


def test_status_of_a_submission_whose_driver_has_not_started(store: Store) -> None:
    submissions.create(store, submissions.new(ID, "small"))
    assert "its driver has not started" in invoke("status", ID, "--storage", store.url)[1]
    (one,) = json.loads(invoke("status", ID, "--storage", store.url, "--json")[1])
    assert one["submissions"][0]["state"] == "pending"
    assert invoke("list", "--storage", store.url)[0] == 0


@pytest.mark.parametrize("asked", [(), ("small",)], ids=["all", "its sweep"])
def test_a_sweep_that_has_only_been_submitted_is_no_missing_sweep(
    store: Store, asked: tuple[str, ...]
) -> None:
    submissions.create(store, submissions.new(ID, "small"))
    code, said = invoke("status", *asked, "--storage", store.url)
    assert code == 0
    assert re.fullmatch(rf"{ID}: submitted .* ago, its driver has not started\n", said)


def test_status_of_what_is_neither_sweep_nor_submission_is_refused(failed: str) -> None:
    code, said = invoke("status", "small-typo", "--storage", failed)
    assert code == 2
    assert "there is no sweep 'small-typo'; sweeps: small" in said


def test_logs_of_a_cell_are_the_tracebacks_of_its_jobs(failed: str) -> None:
    code, said = invoke("logs", "--cell", "2", "--sweep", "small", "--storage", failed)
    assert code == 0
    assert "RuntimeError: too wide for me" in said
    assert "Traceback" in said
    assert "nothing failed in cell 0" in invoke("logs", "--cell", "0", "--storage", failed)[1]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "give either the ID of a submission, or --cell"),
        ((ID, "--cell", "1"), 2, "give either"),
        (("--cell", "4"), 2, "allowed: 0 to 3"),
        (("--cell", "0", "--sweep", "typo"), 2, "found sweep 'typo'; sweeps in .*: small"),
        (("pg-unknown",), 4, f"no such submission; the last ones: {ID}"),
    ],
)
def test_logs_say_what_they_need(
    failed: str, arguments: tuple[str, ...], code: int, says: str
) -> None:
    found, said = invoke("logs", *arguments, "--storage", failed)
    assert found == code
    assert re.search(says, said)


def test_logs_follow_a_run_through_the_store_until_it_has_ended(store: Store) -> None:
    submissions.replace_record(store, RUNNING)
    with pytest.raises(StoreError, match="has not written one yet; --address"):
        list(reading_logs.from_store(store, ID, follow=False))
    store.write_log(submissions.log_name(ID), "one\n")
    texts = reading_logs.from_store(store, ID, follow=True, poll_s=0)
    assert next(texts) == "one\n"
    store.write_log(submissions.log_name(ID), "one\ntwo\n")
    assert next(texts) == "two\n"
    submissions.replace_record(store, replace(RUNNING, ended_at=ago(0), exit_code=0))
    assert list(texts) == [""]


def test_every_place_of_a_token_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert redact(TOKEN) == TOKEN
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(f"{TOKEN}-1\n")
    (tmp_path / "file").write_text(f"{TOKEN}-2")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", f"{TOKEN}-3")
    assert redact(f"a {TOKEN}-1 b {TOKEN}-2 c {TOKEN}-3") == "a [token] b [token] c [token]"


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(SweepError, match="holds credentials") as caught:
        refuse_secrets("s3://user:secret@bucket/folder", "--storage")
    assert "secret" not in str(caught.value)
    refuse_secrets("s3://bucket/a@b", "--storage")
