"""Requests to stop a run before all is done."""

from collections.abc import Callable
from dataclasses import dataclass

GRACE_S = 3.0  # how long running packs may go on after a stop was asked for


def _never() -> bool:
    return False


@dataclass(slots=True)
class Stop:
    """A request to stop, set by a signal or a budget. `why` is None until then.

    Running packs may go on for `grace_s` after that, unless `hurry` says that they may not.
    """

    why: str | None = None
    signum: int | None = None
    grace_s: float = GRACE_S
    hurry: Callable[[], bool] = _never


class Stopped(BaseException):
    """Raised inside work done in this process when a stop was asked for; everything stored stays
    stored.
    """
