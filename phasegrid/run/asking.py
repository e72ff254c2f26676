"""What a run asks while it goes on: what else is to be done?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from phasegrid.packs import Outcome, Pack


@dataclass(frozen=True, slots=True)
class Situation:
    """What a run tells whoever decides what else it is to do.

    `ended` are the outcomes since it was asked last, of jobs that are not tried again; what needs a
    failed one is blocked and not among them. `num_ready` packs could start now, `in_flight` are
    underway, and the executor holds `slots` at once.
    """

    ended: tuple[Outcome, ...]
    num_ready: int
    in_flight: int
    slots: int


class Ask(Protocol):
    """Decides while a run goes on what else it is to do, as where a grid is refined.

    It is asked at the beginning, whenever jobs have ended, and before the run would end for want of
    work; an answer without packs lets it end. It depends on what it is told, and on nothing else.
    """

    def __call__(self, situation: Situation) -> Sequence[Pack]:
        """Return packs of new jobs to be done in this run."""
        ...


def nothing_more(situation: Situation) -> Sequence[Pack]:  # noqa: ARG001 - the protocol's argument
    """Add nothing: the run is what its plan says."""
    return ()
