"""Join a Ray cluster, or start Ray on this machine, within a time limit, and leave no process
behind.

Ray's own waits last minutes, some of them in C++, where no signal ends them. So an address is first
tried by a plain connection, and Ray is started and left in a thread of its own, which can be given
up. Whatever is raised meanwhile is a `ClusterError`: Ray raises nearly everything, also bare
``Exception``.
"""

import atexit
import logging
import os
import queue
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import ray
import ray.exceptions

from phasegrid.errors import ClusterError
from phasegrid.redaction import how_to_set, redact
from phasegrid.registry import FOLDERS_VARIABLE
from phasegrid.run import leftovers
from phasegrid.run.executors.ray import gpus
from phasegrid.run.executors.ray.head import greet

JOIN_S = 30.0  # for a head to answer and to take us in
REFUSED_S = 10.0  # of them, where nobody listens at all: one that is being started may yet
START_S = (
    75.0  # for a Ray of our own, both tries together; Ray gives each of its parts half a minute
)
AGAIN_S = 30.0  # what must be left of it for another try
LEAVE_S = 10.0
CLEAR_S = 3.0  # for a start that failed to notice that its processes have been ended
SAY_EVERY_S = 5.0
LOOK_EVERY_S = 0.5
OBJECT_STORE_BYTES = 128 * 2**20  # outcomes only; Ray's default would take 30% of memory
_PARTS = frozenset({"raylet", "gcs_server"})  # without which no start can succeed

Say = Callable[[str], object]
_Calls: TypeAlias = "queue.SimpleQueue[Callable[[], None] | None]"


def start_ray(
    address: str | None,
    num_cpus: int | None = None,
    run: str | None = None,
    given_by: str | None = None,
    say: Say = lambda _text: None,
) -> None:
    """Join the cluster at `address`, or start a Ray of our own on this machine, whose processes
    bear the mark of `run`.

    `given_by` says where the address came from. What is waited for is told to `say` every
    `SAY_EVERY_S` seconds.

    Raises:
        ClusterError: if this process is connected to a Ray that is not ours, for an address that
        cannot be joined, or if there is no Ray within `JOIN_S`, or `START_S` for one of our own.
    """
    global _ray
    if _ray is None and ray.is_initialized():
        raise ClusterError(
            "starting Ray: this process is connected to a Ray already, which a run would end; call"
            " ray.shutdown() first, or do the run in this process (serial)"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault(gpus.NOSET_VARIABLE, "1")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if address in (None, "local"):
        os.environ.setdefault("RAY_agent_register_timeout_ms", f"{START_S * 1000:.0f}")
        _ray = _Ray(run or uuid.uuid4().hex)
        _start_here(_ray, num_cpus, say)
        return
    assert address is not None
    doing = f"joining Ray at {address}" + (f" (from {given_by})" if given_by else "")
    _refuse_address(address, doing)
    _ray = _Ray(None)
    with _reported(doing):
        _join(_ray, address, given_by, doing, say)


def stop_ray() -> None:
    """Leave the cluster; end the Ray that `start_ray` started, and no other. Ends within `LEAVE_S`
    and a little.
    """
    global _ray
    if _ray is None:
        return
    left, _ray = _ray, None
    left.leave()


def is_our_own() -> bool:
    """Say whether the Ray that this process uses is one that it started."""
    return _ray is not None and _ray.run is not None


class _Ray:
    """Ray in a thread of its own. The thread lives as long as Ray: Linux ends Ray's processes with
    the *thread* that started them. `run` marks the processes of a Ray of our own; None for a
    cluster that is joined.
    """

    def __init__(self, run: str | None) -> None:
        self.run = run
        if run is not None:
            os.environ[leftovers.MARK] = run
        self._open()

    def _open(self) -> None:
        self._calls: _Calls = queue.SimpleQueue()
        self._last = futures.Future[Any]()
        self._last.set_result(None)
        threading.Thread(target=_serve, args=(self._calls,), name="ray", daemon=True).start()

    def call(
        self,
        function: Callable[..., object],
        timeout_s: float,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        """Call a function of Ray, and `look` every `LOOK_EVERY_S` seconds while it takes.

        Raises:
            TimeoutError: if it takes longer than `timeout_s`. It goes on.
        """
        self._last = done = futures.Future[Any]()
        self._calls.put(partial(_settle, done, function))
        now = time.monotonic()
        ends = now + timeout_s
        while not futures.wait([done], timeout=min(LOOK_EVERY_S, ends - now)).done:
            now = time.monotonic()
            if now >= ends:
                raise TimeoutError
            look()
        done.result()

    def clear(self) -> None:
        """End the processes of a start that failed. One that does not notice is left to itself:
        without them it comes to nothing.
        """
        if self.run is not None:
            leftovers.end(self.run)
        if futures.wait([self._last], timeout=CLEAR_S).done:
            with suppress(Exception):
                self.call(ray.shutdown, LEAVE_S)
        if not self._last.done():
            self._calls.put(None)
            self._open()
            atexit.unregister(ray.shutdown)  # it could wait for that thread for ever

    def leave(self) -> None:
        """Leave Ray, then end its remaining processes."""
        if not self._last.done():  # it is being started
            self.clear()
        elif ray.is_initialized():
            with suppress(Exception):
                self.call(ray.shutdown, LEAVE_S)
        if self.run is not None:
            leftovers.end(self.run, grace_s=1.0)
            os.environ.pop(leftovers.MARK, None)
        if not self._last.done():
            atexit.unregister(ray.shutdown)
        self._calls.put(None)


_ray: _Ray | None = None
"""The Ray of this process: it can have one only."""


def _serve(calls: _Calls) -> None:
    while (call := calls.get()) is not None:
        call()


def _settle(done: futures.Future[Any], function: Callable[..., object]) -> None:
    try:
        done.set_result(function())
    except Exception as error:
        done.set_exception(error)
    except BaseException as error:  # Ray ends processes that it can do nothing with
        done.set_exception(RuntimeError(f"Ray gave up: {error!r}"))


def _join(ours: _Ray, address: str, given_by: str | None, doing: str, say: Say) -> None:
    ends = time.monotonic() + JOIN_S
    notice = _Notice(doing, say)
    _await_head(_resolved(address), ends, notice, given_by)
    handed_on = {name: os.environ.get(name) for name in (gpus.NOSET_VARIABLE, FOLDERS_VARIABLE)}
    environment = {"env_vars": {name: v for name, v in handed_on.items() if v}}
    init = partial(_init, say, address=address, runtime_env=environment)
    try:
        ours.call(init, max(1.0, ends - time.monotonic()), notice.look)
    except TimeoutError:
        raise ClusterError(
            f"its head answers, but Ray has not let us in within {JOIN_S:.0f} s; a run that joins a"
            " cluster must be started on one of its nodes (`ray start` on this machine; from"
            " elsewhere: phasegrid submit)"
        ) from None


def _await_head(address: str, ends: float, notice: "_Notice", given_by: str | None) -> None:
    """Wait until a head answers.

    Raises:
        ClusterError: if none does in time.
    """
    refused_ends = ends - JOIN_S + REFUSED_S
    while True:
        met, why = greet(address, max(1.0, min(5.0, ends - time.monotonic())))
        if met == "speaks" or (met == "other" and os.environ.get("RAY_USE_TLS") in ("1", "true")):
            return
        now = time.monotonic()
        if now >= (ends if met == "silent" else refused_ends):
            other = f", or leave {given_by} out, to use this machine" if given_by else ""
            within = JOIN_S if met == "silent" else REFUSED_S
            raise ClusterError(
                f"{why} for {within:.0f} s; check that the cluster is up and that this is the"
                f" address of its head (HOST:6379){other}"
            )
        notice.look(why)
        time.sleep(0.5)


def _start_here(ours: _Ray, num_cpus: int | None, say: Say) -> None:
    """Start a Ray on this machine, and once more if that fails soon enough."""
    doing = "starting Ray on this machine"
    advice = "try again when the machine is less busy, or do without Ray: --serial"
    ends = time.monotonic() + START_S
    notice = _Notice(doing, say)
    init = partial(
        _init,
        say,
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
    )
    for last in (False, True):
        before = leftovers.dead_children(_PARTS)
        try:
            _keep_one_token()
            look = partial(_look_at_parts, notice, frozenset(before))
            ours.call(init, max(1.0, ends - time.monotonic()), look)
            return
        except TimeoutError:
            why, cause = f"it is not up within {START_S:.0f} s", None
        except Exception as error:
            why, cause = redact(first_line(error)), error
        ours.clear()
        if last or ends - time.monotonic() < AGAIN_S:
            raise ClusterError(f"{doing}: {why}; {advice}") from cause
        say(f"{doing} failed ({why}); trying once more")


def _look_at_parts(notice: "_Notice", before: frozenset[int]) -> None:
    """Report what the start waits for; end a start whose raylet has died, which would wait for
    ever.
    """
    notice.look()
    died = {pid: name for pid, name in leftovers.dead_children(_PARTS).items() if pid not in before}
    if died:
        raise RuntimeError(
            f"its {' and '.join(sorted(died.values()))} died while it started; on a busy machine"
            " Ray gives its parts too little time"
        )


def _init(say: Say, **options: Any) -> None:
    """Start or join Ray, and keep it from printing.

    It prints what befalls its parts, with pages of their logs; what that means for a run is told by
    whoever loses something. What waits for want of a core or a GPU is told by Ray alone.
    """

    def tell(data: dict[str, Any], ignore_prefix: bool) -> None:  # noqa: ARG001 - Ray's argument
        for text in data.get("lines", ()):
            if "cannot be scheduled" in text:
                say(f"Ray: {redact(text.strip().split(chr(10), 1)[0])}")

    ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
    ray._private.worker.print_to_stdstream = tell


class _Notice:
    """Reports every `SAY_EVERY_S` seconds what the start still waits for."""

    def __init__(self, doing: str, say: Say) -> None:
        self._doing = doing
        self._say = say
        self._due = time.monotonic() + SAY_EVERY_S

    def look(self, why: str = "") -> None:
        """Report the wait and its reason, if the interval has passed."""
        if time.monotonic() >= self._due:
            self._due += 2 * SAY_EVERY_S
            self._say(f"still {self._doing}" + (f": {why}" if why else "") + " ...")


def _refuse_address(address: str, doing: str) -> None:
    """Refuse a text that is not the address of a head.

    Raises:
        ClusterError: saying what to write.
    """
    if address.startswith("ray://"):
        raise ClusterError(
            f"{doing}: that is a Ray Client address, which cannot carry a sweep; run on the cluster"
            " with --address auto, or give the address of its GCS (host:6379)"
        )
    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{doing}: that is the address of a dashboard, where sweeps are submitted (phasegrid"
            " submit --address); to join, give the address of its GCS (host:6379), or auto"
        )
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise ClusterError(
            f"{doing}: give the address of the head as HOST:PORT (port 6379), or auto"
        )


def _resolved(address: str) -> str:
    """Return where ``auto`` finds a head on this machine, as Ray does."""
    if address != "auto":
        return address
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address("auto")
    except ConnectionError:
        found = None
    if not found:
        raise ClusterError(
            "no Ray runs on this machine; start one (ray start --head), or leave --address out, and"
            " one is started for the run"
        )
    return str(found)


@contextmanager
def _reported(doing: str) -> Iterator[None]:
    """Turn any error into a `ClusterError` that says what was being done."""
    try:
        yield
    except Exception as error:
        raise ClusterError(f"{doing}: {_why_not_joined(error)}") from error


def _why_not_joined(error: BaseException) -> str:
    """Say why Ray could not be joined: of a wrong token it says only that there is no
    connection.
    """
    if isinstance(error, ClusterError):
        return str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ray.exceptions.AuthenticationError):
            return f"the cluster refuses us: {how_to_set()}"
        cause = cause.__cause__ or cause.__context__
    return f"{redact(first_line(error))} (if it asks for a token: {how_to_set()})"


def _keep_one_token() -> None:
    """Make the token that Ray makes for its first cluster, whole and once, for this user only.

    Ray looks whether there is one and then writes it: of two that start at once each has its own,
    and the processes of the first meet those of the second with the wrong one.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    if path.exists():
        return
    new = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with suppress(OSError):  # then it is Ray's to tell
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(new, path)  # the first one stays
        new.unlink()


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its name if it says nothing: Ray's go on
    for pages.
    """
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
