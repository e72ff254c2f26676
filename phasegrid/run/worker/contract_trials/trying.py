"""Try a plug-in within a time limit, and tell what is wrong with it and where."""

import inspect
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from phasegrid.config.contracts import Verdict
from phasegrid.declare import DatasetFacts, import_function
from phasegrid.errors import PhasegridError
from phasegrid.fallbacks import collected
from phasegrid.redaction import redact
from phasegrid.run.worker.write_checks import kept_settings
from phasegrid.seeding import seeded_draws
from phasegrid.tasks.operations import operations_of
from phasegrid.user_code import where, where_raised

LIMIT_S = 10.0
"""Seconds to try a plug-in. One that takes longer may be correct, and is accepted with a note."""

NUM = 2
"""The number of made-up examples."""


class TooSlowError(BaseException):
    """Trying took longer than `LIMIT_S`. Not an `Exception`, so that user code does not catch
    it.
    """


class FaultError(Exception):
    """What is wrong, and where."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(what + f" ({place})" * bool(place))


def tried(work: Callable[[], str | None]) -> Verdict:
    """Run a trial within `LIMIT_S`, with its own random draws."""
    try:
        with (
            _time_limit(),
            kept_settings(),
            seeded_draws(0),
            warnings.catch_warnings(),
            collected(),  # what it does another way, the run will say
        ):
            warnings.simplefilter("ignore")
            note = work()
        return Verdict(note=None if note is None else redact(note))
    except TooSlowError:
        return Verdict(
            note=f"takes longer than {LIMIT_S:.0f} s on {NUM} examples; the check was stopped"
        )
    except (FaultError, PhasegridError) as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, PhasegridError):
            return Verdict(note=redact(f"not tried: {error}"))
        return Verdict(fault=redact(str(error)))


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise `TooSlowError` after `LIMIT_S`; no limit without alarm signals, or in a thread."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield
        return

    def end(_signum: int, _frame: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def told(doing: str, error: Exception, place: str = "") -> FaultError:
    """Return the fault that user code raised an error; `place` is told where none of its lines
    raised it.
    """
    what = f"{doing}: {type(error).__name__}: {' '.join(str(error).split())}"
    return FaultError(what, where_raised(error) or place)


def made_up(facts: DatasetFacts) -> list[tuple[Tensor, Tensor]]:
    """Return inputs and labels that stand in for `NUM` examples of a data set."""
    make = operations_of(facts.task).made_up
    return make(facts.input_shape, facts.num_classes, facts.form, NUM)


def start_of(function: str | Callable[..., object]) -> str:
    """Return the place where a function of the user begins; empty for other code."""
    code = getattr(inspect.unwrap(import_function(function)), "__code__", None)
    return "" if code is None else where(code.co_filename, code.co_firstlineno)
