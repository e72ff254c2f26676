"""Control runs on a cluster from another machine through Ray Jobs (the HTTP address of the head's
dashboard, port 8265).

Ray's own client submits, stops, lists and reads logs; nothing else talks to the cluster. Every
error of the client becomes a `ClusterError` that says what to do. Ray itself reads the token of a
cluster; this module only keeps it out of messages.
"""

import asyncio
import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError
from urllib.request import urlopen

from phasegrid.errors import ClusterError
from phasegrid.redaction import how_to_set, redact
from phasegrid.store.submissions import VARIABLE, Job
from phasegrid.submit.bundle import Bundle
from phasegrid.submit.targets import check_address

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"  # Ray's own name for the address of its jobs
STOP_WAIT_S = 60  # between Ray's SIGTERM and SIGKILL: driver.GRACE_S, and time for a last record
ANSWER_S = 20.0  # for a cluster's first answer; Ray's client would wait for minutes, or for ever
READY_S = 90.0  # until a head that answers is ready: its agent, which starts jobs, comes up last
GONE_AFTER_S = 30.0  # of silence: longer than a busy head or a short failure of the network
_T = TypeVar("_T")
_GONE = (
    OSError,
    RuntimeError,
    ValueError,
)  # errors of Ray's client; errors of requests are OSErrors


@dataclass(frozen=True, slots=True)
class Request:
    """A request to run something: an id, the command and the bundle; Ray's own lists show
    `metadata`.
    """

    id: str
    command: tuple[str, ...]
    bundle: Bundle
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that answered, at `address`; `client` is Ray's ``JobSubmissionClient``."""

    address: str
    client: Any

    def submit(self, request: Request) -> None:
        """Send the bundle and start the command in it, with the request's id.

        Raises:
            ClusterError: if the cluster refuses it.
        """
        try:
            self._submit(request)
        except ClusterError:
            if not self._knows(
                request.id
            ):  # an error after the cluster accepted the job is not a failure
                raise

    def _knows(self, submission_id: str) -> bool:
        try:
            return self.job(submission_id).status is not None
        except ClusterError:
            return False

    def _submit(self, request: Request) -> None:
        with (
            _reported(f"submitting {request.id} to {self.address}"),
            tempfile.TemporaryDirectory() as folder,
        ):
            package = Path(folder) / "bundle.zip"
            package.write_bytes(request.bundle.data)
            self.client.submit_job(
                entrypoint="exec " + shlex.join(request.command),  # no shell between Ray and us
                submission_id=request.id,
                runtime_env={
                    "working_dir": str(package),
                    "env_vars": {
                        VARIABLE: request.id,
                        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
                    },
                },
                metadata=dict(request.metadata),
            )

    def job(self, submission_id: str) -> Job:
        """Return what the cluster knows about a submission, which may be nothing.

        Raises:
            ClusterError: if it does not answer.
        """
        found = [job for job in self.jobs() if job.id == submission_id]
        return found[0] if found else Job(submission_id, None)

    def jobs(self) -> list[Job]:
        """List the jobs that were submitted to the cluster through Ray Jobs.

        Raises:
            ClusterError: if it does not answer.
        """
        _await_answer(self.address)
        with _reported(f"listing the jobs of {self.address}"):
            return [_as_job(info) for info in self.client.list_jobs() if info.submission_id]

    def stop(self, submission_id: str) -> bool:
        """Make the cluster send SIGTERM to a job's driver, and SIGKILL after `STOP_WAIT_S`; return
        whether it was running.

        Raises:
            ClusterError: if the cluster does not know it or does not answer.
        """
        with _reported(f"stopping {submission_id} on {self.address}"):
            return bool(self.client.stop_job(submission_id))

    def log(self, submission_id: str) -> str:
        """Return the log of a job's driver so far.

        Raises:
            ClusterError: if the cluster does not have it or does not answer.
        """
        with _reported(f"reading the log of {submission_id} on {self.address}"):
            return redact(str(self.client.get_job_logs(submission_id)))

    def follow(self, submission_id: str, say: Callable[[str], None]) -> None:
        """Pass the log of a job's driver to `say`, from its beginning until the job ends.

        Raises:
            ClusterError: if the cluster does not have it or stops answering.
        """
        with _reported(f"following the log of {submission_id} on {self.address}"):
            asyncio.run(_tail(self, submission_id, say))

    def wait(
        self,
        submission_id: str,
        poll_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> Job:
        """Wait until a job has ended; return what the cluster then says about it.

        Raises:
            ClusterError: if the cluster no longer knows it, or has not answered for `GONE_AFTER_S`.
        """
        heard_at = clock()
        while True:
            try:
                job = self.job(submission_id)
            except ClusterError as error:
                if clock() - heard_at >= GONE_AFTER_S:
                    raise ClusterError(
                        f"waiting for {submission_id}: {self.address} has not answered for"
                        f" {GONE_AFTER_S:.0f} s; its head was stopped or killed, or the network is"
                        " down"
                    ) from error
                time.sleep(poll_s)
                continue
            heard_at = clock()
            if job.over:
                return job
            if job.status is None:
                raise ClusterError(
                    f"waiting for {submission_id}: {self.address} does not know it (any more);"
                    " submit the sweep again to go on"
                )
            time.sleep(poll_s)


def connect(address: str) -> Cluster:
    """Reach a cluster's jobs at ``http://head:8265`` (or https).

    Raises:
        SweepError: for any other kind of address.
        ClusterError: if it does not answer (within `ANSWER_S`), refuses us, or has no Ray Jobs.
    """
    check_address(address)
    _await_answer(address)
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise ClusterError(
            f"reaching the cluster at {address}: {error}; pip install 'phasegrid[cluster]'"
        ) from error
    for name in ("dashboard_sdk", "job.sdk"):  # they log every upload and closed connection
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
    with _reported(f"reaching the cluster at {address}"), _environment(ADDRESS_VARIABLE, address):
        return Cluster(address, JobSubmissionClient(address))


def when_ready(
    attempt: Callable[[], _T],
    say: Callable[[str], object],
    pause_s: float = 3.0,
    clock: Callable[[], float] = time.monotonic,
) -> _T:
    """Return the result of `attempt`; while the cluster answers that it is not ready, try again for
    up to `READY_S` seconds.

    Raises:
        ClusterError: from the last attempt, or from an attempt that failed for another reason.
    """
    ends = clock() + READY_S
    while True:
        try:
            return attempt()
        except ClusterError as error:
            if not _may_pass(error.__cause__) or clock() >= ends:
                raise
            say(f"not ready yet: {error}; trying again")
            time.sleep(pause_s)


def run_command(
    python: str, sweep: str, storage: str, settings: Sequence[str], options: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the command that a submitted job runs, in the folder of its bundle."""
    given = [part for setting in settings for part in ("--set", setting)]
    return (
        python,
        "-m",
        "phasegrid",
        "run",
        sweep,
        "--address",
        "auto",
        "--storage",
        storage,
        "--no-plot",
        *options,
        *given,
    )


def _await_answer(address: str) -> None:
    """Ask for the version, with a time limit and without a token, only to detect silence; Ray's
    client reports every other error.
    """
    try:
        with urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_S):
            return
    except (OSError, ValueError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            raise ClusterError(
                f"reaching the cluster at {address}: no answer within {ANSWER_S:.0f} s; check that"
                " the cluster is up, that this is its dashboard, and that no firewall is between"
                " (ssh -L 8265:127.0.0.1:8265 HEAD makes a tunnel)"
            ) from error


async def _tail(cluster: Cluster, submission_id: str, say: Callable[[str], None]) -> None:
    """Follow a log. If nothing arrives for a while, ask the head for the state of the job, because
    a lost machine sends no error.
    """
    texts = cluster.client.tail_job_logs(submission_id)
    while True:
        coming = asyncio.ensure_future(anext(texts))
        while not (await asyncio.wait({coming}, timeout=GONE_AFTER_S))[0]:
            if (await asyncio.to_thread(cluster.job, submission_id)).over:
                return
        try:
            say(redact(coming.result()))
        except StopAsyncIteration:
            return


def _may_pass(error: BaseException | None) -> bool:
    """Say whether a cluster answered that it is not ready yet: the fault is in the cluster, not in
    the request.
    """
    found = re.search(r"status code 5\d\d", str(error)) if isinstance(error, RuntimeError) else None
    return found is not None and not re.search(r"^(Value|Type)Error: ", str(error), re.MULTILINE)


def _as_job(info: Any) -> Job:
    code = info.driver_exit_code
    return Job(
        id=str(info.submission_id),
        status=str(getattr(info.status, "value", info.status)),
        exit_code=128 - code if code is not None and code < 0 else code,  # -15 is signal 15: 143
        message=redact(info.message) if info.message else None,
        sweep=(info.metadata or {}).get("phasegrid_sweep"),
    )


@contextmanager
def _reported(doing: str) -> Iterator[None]:
    """Turn what Ray's client raises into a `ClusterError`."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        found = redact(error.message).split("\n", 1)[0]
        raise ClusterError(f"{doing}: {found}; {how_to_set()}, and try again") from None
    except ConnectionError as error:
        raise ClusterError(
            f"{doing}: nothing answers there; check that the cluster is up, that this is its"
            " dashboard, and that it serves jobs (pip install 'phasegrid[cluster]' on its head)"
        ) from error
    except _client_errors() as error:
        missing = "; pip install 'phasegrid[cluster]'" if "ray[default]" in str(error) else ""
        raise ClusterError(f"{doing}: {_short(error)}{missing}") from error


def _client_errors() -> tuple[type[Exception], ...]:
    """Return the error types of Ray's client; following a log needs aiohttp, which comes with
    ``ray[default]``.
    """
    try:
        from aiohttp import ClientError
    except ImportError:
        return _GONE
    return (*_GONE, ClientError)


def _short(error: Exception) -> str:
    """Return the first and last line of a message, which may be a traceback of the server."""
    lines = [line.strip() for line in redact(str(error)).strip().splitlines() if line.strip(" .")]
    if not lines:
        return type(error).__name__
    return lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable for a moment: Ray's client prefers the address in the environment to its
    argument.
    """
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
