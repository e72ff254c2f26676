"""Call Ray in a thread of its own, so that a call that does not end can be abandoned."""

import atexit
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import ray
import ray.exceptions

from phasegrid.run import leftovers

LEAVE_S = 10.0
CLEAR_S = 3.0  # for a failed start to notice that its processes were ended
LOOK_EVERY_S = 0.5

_Calls: TypeAlias = "queue.SimpleQueue[Callable[[], None] | None]"


class RayThread:
    """A thread in which Ray is called. It lives as long as Ray, because Linux ends Ray's processes
    with the *thread* that started them. `run` marks the processes of a Ray that is started in this
    thread; it is None if a cluster is joined.
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
        """Call a function of Ray; until it returns, call `look` every `LOOK_EVERY_S` seconds.

        Raises:
            TimeoutError: if it takes longer than `timeout_s`; the call itself goes on.
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
        """End the processes of a start that failed. If its call does not return, abandon the
        thread: without the processes, the start cannot succeed.
        """
        if self.run is not None:
            leftovers.end(self.run)
        if futures.wait([self._last], timeout=CLEAR_S).done:
            with suppress(Exception):
                self.call(ray.shutdown, LEAVE_S)
        if not self._last.done():
            self._calls.put(None)
            self._open()
            atexit.unregister(ray.shutdown)  # it could wait for the abandoned thread for ever

    def leave(self) -> None:
        """Leave Ray, then end its remaining processes."""
        if not self._last.done():  # its start has not ended
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


def _serve(calls: _Calls) -> None:
    while (call := calls.get()) is not None:
        call()


def _settle(done: futures.Future[Any], function: Callable[..., object]) -> None:
    try:
        done.set_result(function())
    except Exception as error:
        done.set_exception(error)
    except BaseException as error:  # Ray may try to end this process
        done.set_exception(RuntimeError(f"Ray gave up: {error!r}"))
