"""Counts of the jobs of a run by outcome."""

from dataclasses import dataclass

from phasegrid.texts import counted


@dataclass(slots=True)
class Counts:
    """Numbers of jobs by outcome. `already` were stored before they were tried."""

    total: int = 0
    done: int = 0
    diverged: int = 0
    not_applicable: int = 0
    already: int = 0
    failed: int = 0
    blocked: int = 0

    @property
    def stored(self) -> int:
        """Jobs of this run whose result is in the store."""
        return self.done + self.diverged + self.not_applicable + self.already

    @property
    def open(self) -> int:
        """Jobs that have neither a result nor a failure."""
        return self.total - self.stored - self.failed - self.blocked


def open_jobs(counts: Counts) -> str:
    """Say how many jobs are open.

    >>> open_jobs(Counts(total=1)), open_jobs(Counts(total=2))
    ('1 job is open', '2 jobs are open')
    """
    return f"{counted(counts.open, 'job')} {'is' if counts.open == 1 else 'are'} open"
