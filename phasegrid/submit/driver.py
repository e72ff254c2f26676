"""Record a run inside a submitted job: write its log, its signs of life and its end to the store.

The cluster also knows this, but is often gone when somebody asks. And Ray Jobs has no exit code for
a stopped job.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path
from types import FrameType
from typing import TextIO

from phasegrid.errors import PhasegridError, StoreError, exit_code
from phasegrid.redaction import clean, redact
from phasegrid.run.stopping import Stop
from phasegrid.store import submissions
from phasegrid.store.store import Store

EVERY_S = 15.0
EARLY_S = (2.0, 5.0, 10.0)  # sooner at first: users look right after submitting
GRACE_S = 30.0  # for running packs after a stop; Ray waits longer (ray_jobs.STOP_WAIT_S)


@dataclass(slots=True)
class Driver:
    """What a run reports about itself: the name of its `sweep` once it is read, and the exit `code`
    once there is one. `stop` asks the run to end.
    """

    stop: Stop = field(default_factory=Stop)
    sweep: str | None = None
    code: int | None = None


@contextmanager
def driver_of(path: Path, url: str, submission_id: str | None) -> Iterator[Driver]:
    """Yield the `Driver` of a run of a sweep file. If this process has the id of a submission,
    everything is recorded in the store at `url`.

    Raises:
        StoreError: if the store cannot be opened. Later failures to record are reported and do not
        end the run.
    """
    if not submission_id:
        with _ending_on_sigterm():
            yield Driver()
        return
    store = Store.open(url, create=True)
    known = submissions.read(store, submission_id)
    own = submissions.new(submission_id, path.stem)
    recorder = _Recorder(store, submissions.started(known or own))
    driver = Driver(Stop(grace_s=GRACE_S, hurry=recorder.must_hurry))
    with _ending_on_sigterm(), recorder.listening():
        try:
            yield driver
        except BaseException as error:
            driver.code = _code_of(error)
            recorder.keep(_said(error))
            raise
        finally:
            recorder.end(driver)


def submission_id() -> str | None:
    """Return the id of the submission of this process, None if it was not submitted."""
    return os.environ.get(submissions.VARIABLE) or None


class _Recorder:
    """Keeps the log and writes it, with a sign of life, every `EVERY_S` seconds (sooner at first),
    from its own thread.
    """

    def __init__(self, store: Store, record: submissions.Submission) -> None:
        self._store = store
        self._record = record
        self._said: list[str] = []
        self._written = 0
        self._complained = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="recorder", daemon=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep a copy of everything that is written to stdout and stderr."""
        out, err = sys.stdout, sys.stderr
        self.write()
        self._thread.start()
        sys.stdout, sys.stderr = _Tee(out, self), _Tee(err, self)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = out, err

    def keep(self, text: str) -> None:
        """Keep a text for the log."""
        self._said.append(text)

    def must_hurry(self) -> bool:
        """Say whether the driver should not wait for running packs; False if the store does not
        answer.
        """
        try:
            return submissions.must_hurry(self._store, self._record.id)
        except StoreError as error:
            self._complain(error)
            return False

    def end(self, driver: Driver) -> None:
        """Write the log and the record a last time."""
        self._over.set()
        self._thread.join()
        self._record = replace(
            self._record,
            sweep=driver.sweep or self._record.sweep,
            ended_at=submissions.now_text(),
            exit_code=driver.code,
        )
        self.write()

    def write(self) -> None:
        """Write the record, and the log if it has grown."""
        self._record = replace(self._record, seen_at=submissions.now_text())
        count = len(self._said)
        try:
            if count > self._written:
                text = clean("".join(self._said[:count]))
                self._store.write_log(submissions.log_name(self._record.id), text)
                self._written = count
            submissions.replace_record(self._store, self._record)
        except StoreError as error:
            self._complain(error)

    def _repeat(self) -> None:
        for pause_s in chain(EARLY_S, repeat(EVERY_S)):
            if self._over.wait(pause_s):
                return
            self.write()

    def _complain(self, error: StoreError) -> None:
        if not self._complained:
            self._complained = True
            print(f"the run goes on, but is not recorded: {error}", file=sys.stderr)


class _Tee:
    """A text stream that also keeps a copy of its text; tokens are removed from both."""

    def __init__(self, stream: TextIO, recorder: _Recorder) -> None:
        self._stream = stream
        self._recorder = recorder

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        self._recorder.keep(text)
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Turn a SIGTERM before or after the run's own handling into an ordinary, recorded end."""

    def end(signum: int, _frame: FrameType | None) -> None:
        sys.exit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _code_of(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        if error.code == signal.SIGTERM:  # Ray's own handler exits with the bare number
            return 128 + signal.SIGTERM
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return exit_code(error)


def _said(error: BaseException) -> str:
    """Return the text of an error for the log: the message of a user's mistake, or the traceback of
    ours.
    """
    if isinstance(error, (PhasegridError, KeyboardInterrupt, SystemExit)):
        return f"{str(error) or type(error).__name__}\n"
    return "".join(traceback.format_exception(error))
