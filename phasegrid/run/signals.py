"""Let Ctrl-C and SIGTERM stop a run."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from phasegrid.run.stopping import Stop


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; a second Ctrl-C ends at once.

    Python passes signals only to its main thread, so they do not stop a run in another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(signum: int, _frame: FrameType | None) -> None:
        if stop.signum is not None:
            raise KeyboardInterrupt
        stop.signum = signum
        stop.why = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
