"""Which faults a soak does and when: drawn from a seed, told by progress and not by the clock.
Pure.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ENDS_A_DRIVER = ("driver-killed", "driver-terminated", "driver-interrupted", "storage-fails")
NOOP_KINDS = (
    *ENDS_A_DRIVER, "worker-killed", "worker-killed", "second-driver", "node-removed", "storage-stalls", "torn-write",
    "compacted",
)  # fmt: skip
TINY_KINDS = (
    "driver-killed", "driver-terminated", "driver-interrupted", "worker-killed", "worker-killed", "second-driver",
    "node-removed", "storage-stalls", "torn-write", "snapshot-truncated", "snapshot-truncated",
)  # fmt: skip
KINDS = tuple(sorted({*NOOP_KINDS, *TINY_KINDS}))
SLOW = "second-driver"  # it needs the time that a Ray takes to start: the first of its lap
NOOP_FAULTS = 7  # of a lap
TINY_FAULTS = 4
ALL_KINDS_LAPS = 4  # of which every kind is a part, more than once in most
LATEST = 0.9  # of the jobs of a lap: a fault after the last job would be none


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that is due once `at` jobs of its sweep are stored. `draw` seeds the choice of who is
    hit.
    """

    kind: str
    at: int
    draw: int


@dataclass(frozen=True, slots=True)
class Lap:
    """The faults of one no-op sweep and of one sweep of trainings, each in the order in which they
    are due.
    """

    index: int
    noop: tuple[Fault, ...]
    tiny: tuple[Fault, ...]


def laps(seed: int, noop_jobs: int, tiny_jobs: int) -> Iterator[Lap]:
    """Yield laps without end; the same seed and numbers of jobs give the same laps."""
    chance = random.Random(seed)
    noop_deck, tiny_deck = _dealt(chance, NOOP_KINDS), _dealt(chance, TINY_KINDS)
    index = 0
    while True:
        noop = _lap(chance, noop_deck, NOOP_FAULTS, noop_jobs)
        yield Lap(index, noop, _lap(chance, tiny_deck, TINY_FAULTS, tiny_jobs))
        index += 1


def needs_two_nodes(pending: Sequence[Fault]) -> bool:
    """Say whether a run that starts now must be on a cluster: a node is to be removed before a run
    is to be ended.
    """
    for fault in pending:
        if fault.kind == "node-removed":
            return True
        if fault.kind in ENDS_A_DRIVER:
            return False
    return False


def _dealt(chance: random.Random, deck: Sequence[str]) -> Iterator[str]:
    """Deal shuffled decks one after another, so that no kind is left out for long."""
    while True:
        yield from chance.sample(deck, len(deck))


def _lap(chance: random.Random, deck: Iterator[str], count: int, jobs: int) -> tuple[Fault, ...]:
    moments = sorted(chance.randint(1, max(1, int(LATEST * jobs))) for _ in range(count))
    kinds = sorted((next(deck) for _ in moments), key=lambda kind: kind != SLOW)
    return tuple(
        Fault(kind, at, chance.getrandbits(32)) for kind, at in zip(kinds, moments, strict=True)
    )
