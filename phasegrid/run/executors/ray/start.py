"""Join a Ray cluster, or start Ray on this machine, within a time limit, and leave no process
behind.

Ray's own waits last minutes, some of them in C++, where no signal ends them. So an address is first
tried by a plain connection, and Ray is started and left in a thread of its own, which can be
abandoned. Every error on the way becomes a `ClusterError`, because Ray raises errors of nearly
every class, even plain ``Exception``.
"""

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
import ray.exceptions

from phasegrid.errors import ClusterError
from phasegrid.plugin_files import FOLDERS_VARIABLE
from phasegrid.redaction import how_to_set, redact
from phasegrid.run import leftovers
from phasegrid.run.executors.ray import gpus
from phasegrid.run.executors.ray.auth_token import keep_one_token
from phasegrid.run.executors.ray.head import greet
from phasegrid.run.executors.ray.ray_thread import RayThread

JOIN_S = 30.0  # for a head to answer and admit us
REFUSED_S = 10.0  # of these, if nobody listens there; a head may just be starting
START_S = 75.0  # for both tries to start our own Ray, which gives each part half a minute
AGAIN_S = 30.0  # of START_S, must be left for another try
SAY_EVERY_S = 5.0
OBJECT_STORE_BYTES = 128 * 2**20  # only outcomes are stored; Ray's default is 30% of memory
_PARTS = frozenset({"raylet", "gcs_server"})  # no start succeeds without them

Say = Callable[[str], object]


def start_ray(
    address: str | None,
    num_cpus: int | None = None,
    run: str | None = None,
    given_by: str | None = None,
    say: Say = lambda _text: None,
) -> None:
    """Join the cluster at `address`, or start a Ray on this machine and mark its processes with
    `run`.

    `given_by` says where the address came from. Every `SAY_EVERY_S` seconds, `say` is called with
    what the start waits for.

    Raises:
        ClusterError: if this process is connected to a Ray that is not ours, if the address cannot
            be joined within `JOIN_S`, or if our own Ray has not started within `START_S`.
    """
    global _ray
    if _ray is None and ray.is_initialized():
        raise ClusterError(
            "starting Ray: this process is already connected to a Ray, which a run would end; call"
            " ray.shutdown() first, or do the run in this process (serial)"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault(gpus.NOSET_VARIABLE, "1")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if address in (None, "local"):
        os.environ.setdefault("RAY_agent_register_timeout_ms", f"{START_S * 1000:.0f}")
        _ray = RayThread(run or uuid.uuid4().hex)
        _start_here(_ray, num_cpus, say)
        return
    assert address is not None
    doing = f"joining Ray at {address}" + (f" (from {given_by})" if given_by else "")
    _refuse_address(address, doing)
    _ray = RayThread(None)
    with _reported(doing):
        _join(_ray, address, given_by, doing, say)


def stop_ray() -> None:
    """Leave the cluster, or end the Ray that `start_ray` started, in about `LEAVE_S` seconds."""
    global _ray
    if _ray is None:
        return
    left, _ray = _ray, None
    left.leave()


def is_our_own() -> bool:
    """Say whether this process started the Ray that it uses."""
    return _ray is not None and _ray.run is not None


_ray: RayThread | None = None
"""The Ray of this process, which can have only one."""


def _join(ours: RayThread, address: str, given_by: str | None, doing: str, say: Say) -> None:
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
        ClusterError: if no head answers in time.
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


def _start_here(ours: RayThread, num_cpus: int | None, say: Say) -> None:
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
            keep_one_token()
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
    """Report what the start waits for. End the start if its raylet has died: it would wait for
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

    Ray prints what happens to its parts, with pages of their logs. Here, the code that loses
    something says what that means for a run. Only Ray's message that a task waits for a core or a
    GPU is passed on.
    """

    def tell(data: dict[str, Any], ignore_prefix: bool) -> None:  # noqa: ARG001 - Ray passes it
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
    """Refuse a text that cannot be the address of a head.

    Raises:
        ClusterError: with what to write instead.
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
    """Return the address that ``auto`` means on this machine, found as Ray finds it."""
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
    """Say why Ray could not be joined. Ray itself reports a wrong token as a missing connection."""
    if isinstance(error, ClusterError):
        return str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ray.exceptions.AuthenticationError):
            return f"the cluster refuses us: {how_to_set()}"
        cause = cause.__cause__ or cause.__context__
    return f"{redact(first_line(error))} (if it asks for a token: {how_to_set()})"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its name if the message is empty. Ray's
    messages are pages long.
    """
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
