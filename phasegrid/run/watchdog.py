"""End a worker process whose pack hangs.

Nobody knows how long a pack may take, but it must finish an epoch or a measurement now and then.
Only the process itself knows when it started, and where it hangs.
"""

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

BACKUP_S = 60.0  # for code that lets no other thread run


@contextmanager
def watched(
    timeout_s: float | None, give_up: Callable[[str], object]
) -> Iterator[Callable[[], None]]:
    """Yield a function to call at every sign of life; with `timeout_s` None nothing is watched.

    If it is not called for `timeout_s`, `give_up` gets the stack of the calling thread as text, and
    the process is ended. Code that lets no other thread run is ended `BACKUP_S` later, without
    `give_up`.
    """
    if timeout_s is None:
        yield lambda: None
        return
    watchdog = _Watchdog(timeout_s, give_up, threading.get_ident())
    thread = threading.Thread(target=watchdog.watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield watchdog.note_life
    finally:
        watchdog.over.set()
        thread.join()
        faulthandler.cancel_dump_traceback_later()


def explanation(timeout_s: float) -> str:
    """Say why a process was ended."""
    return (
        f"TimeoutError: no epoch and no measurement ended within {timeout_s:g} s (run.timeout_s);"
        " its process was ended"
    )


@dataclass(slots=True)
class _Watchdog:
    timeout_s: float
    give_up: Callable[[str], object]
    thread_id: int
    alive_at: float = field(default_factory=time.monotonic)
    over: threading.Event = field(default_factory=threading.Event)

    def note_life(self) -> None:
        self.alive_at = time.monotonic()

    def watch(self) -> None:
        while (left_s := self.alive_at + self.timeout_s - time.monotonic()) > 0:
            faulthandler.dump_traceback_later(left_s + BACKUP_S, exit=True, file=2)
            if self.over.wait(left_s):
                return
        if self.over.is_set():
            return
        try:
            stack = traceback.format_stack(sys._current_frames()[self.thread_id])
            self.give_up("Standing still here (most recent call last):\n" + "".join(stack))
        finally:
            os._exit(1)
