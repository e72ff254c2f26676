"""Let a caller add jobs to a run while it goes on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from phasegrid.packs import Outcome, Pack


@dataclass(frozen=True, slots=True)
class Situation:
    """The report of a run to the caller that decides which jobs to add.

    `ended` are the final outcomes since the last call; jobs that are blocked by a failed one are
    not among them. `num_ready` packs could start now, `in_flight` are underway, and the executor
    holds `slots` at once.
    """

    ended: tuple[Outcome, ...]
    num_ready: int
    in_flight: int
    slots: int


class Ask(Protocol):
    """Decides during a run which jobs to add, for example to refine a grid.

    It is called at the beginning, whenever jobs have ended, and before the run would end; if it
    then returns no packs, the run ends. Its answer depends only on its argument.
    """

    def __call__(self, situation: Situation) -> Sequence[Pack]:
        """Return packs of new jobs for this run."""
        ...


def nothing_more(situation: Situation) -> Sequence[Pack]:  # noqa: ARG001 - of the protocol
    """Add nothing: the run consists of its plan."""
    return ()
