"""The serial executor and the run loop around it."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise

import pytest

from phasegrid.config.types import Retries, RunOptions
from phasegrid.errors import ClusterError
from phasegrid.jobs import MetricJob, Part, Trial
from phasegrid.packs import Outcome, Pack
from phasegrid.run.asking import Situation
from phasegrid.run.executors.base import PackResult, Serial
from phasegrid.run.loop import run_packs
from phasegrid.run.scheduler import Scheduler
from phasegrid.run.stopping import Stop, Stopped

PART = Part("noop", 1, {})


def train(name: str, *keys: str) -> Pack:
    return Pack(name, "train", 0, tuple(Trial(key, PART, PART, {}, 0) for key in keys))


def silent(*_: object) -> None:
    """Observe nothing."""


def succeed(pack: Pack) -> Sequence[Outcome]:
    return [Outcome(key, "done") for key in pack.job_keys()]


class LosesEachOnce:
    """An executor whose processes die the first time they get a pack."""

    slots = 2

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.running: list[Pack] = []

    def submit(self, pack: Pack) -> None:
        self.running.append(pack)

    def wait(self, timeout_s: float) -> list[PackResult]:
        assert timeout_s > 0
        running, self.running = self.running, []
        endings = [
            PackResult(p, succeed(p)) if p.key in self.seen else PackResult(p, lost="worker died")
            for p in running
        ]
        self.seen.update(p.key for p in running)
        return endings

    def close(self) -> None:
        """Nothing to end."""


def test_everything_is_done_once() -> None:
    scheduler = Scheduler([train("t1", "a", "b"), train("t2", "c")], set())
    run_packs(scheduler, Serial(succeed), silent, Stop(), RunOptions(), silent)
    assert scheduler.counts.done == 3
    assert scheduler.over


def test_lost_packs_are_recorded_and_done_again() -> None:
    scheduler = Scheduler([train("t1", "a"), train("t2", "b")], set(), Retries(infra=2))
    lost: list[tuple[str, str | None, int]] = []
    run_packs(
        scheduler,
        LosesEachOnce(),
        silent,
        Stop(),
        RunOptions(),
        lambda ending, attempt: lost.append((ending.pack.key, ending.lost, attempt)),
    )
    assert scheduler.counts.done == 2
    assert sorted(lost) == [("t1", "worker died", 1), ("t2", "worker died", 1)]


def test_a_stop_request_launches_nothing_more() -> None:
    stop = Stop()
    done: list[str] = []

    def do(pack: Pack) -> Sequence[Outcome]:
        done.append(pack.key)
        stop.why = "Ctrl-C"
        return succeed(pack)

    scheduler = Scheduler([train(f"t{i}", str(i)) for i in range(5)], set())
    run_packs(scheduler, Serial(do), silent, stop, RunOptions(), silent)
    assert len(done) == 1
    assert scheduler.counts.done == 1
    assert scheduler.counts.open == 4


@pytest.mark.parametrize("stopped", [True, False])
def test_a_cluster_that_is_stopped_with_us_is_no_error(stopped: bool) -> None:
    """A batch system sends SIGTERM to all processes of a job, and Ray's own die of it first."""
    stop = Stop()

    def do(_pack: Pack) -> list[Outcome]:
        stop.why = "SIGTERM" if stopped else None
        raise ClusterError("its raylet on this machine has died")

    scheduler = Scheduler([train("t", "a")], set())
    with nullcontext() if stopped else pytest.raises(ClusterError):
        run_packs(scheduler, Serial(do), silent, stop, RunOptions(), silent)
    assert scheduler.counts.open == 1


def test_work_that_stops_itself_ends_the_run_without_an_error() -> None:
    def do(_: Pack) -> Sequence[Outcome]:
        raise Stopped

    stop = Stop()
    scheduler = Scheduler([train("t", "a")], set())
    run_packs(scheduler, Serial(do), silent, stop, RunOptions(), silent)
    assert stop.why == "stopped"
    assert scheduler.counts.open == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (RunOptions(on_error="stop"), "a job failed and on_error is stop"),
        (RunOptions(max_failures=1), "2 jobs failed, more than max_failures: 1"),
    ],
)
def test_too_many_failures_stop_the_run(options: RunOptions, expected: str) -> None:
    def fail(pack: Pack) -> Sequence[Outcome]:
        return [Outcome(key, "failed", error="no", kind="app") for key in pack.job_keys()]

    stop = Stop()
    scheduler = Scheduler([train(f"t{i}", str(i)) for i in range(5)], set())
    run_packs(scheduler, Serial(fail), silent, stop, options, silent)
    assert stop.why is not None
    assert stop.why.startswith(expected)
    assert scheduler.counts.open > 0


class Halving:
    """Adds the cell between two whose trainings have ended, until cells are one apart."""

    def __init__(self) -> None:
        self.there: set[int] = set()
        self.planned: set[int] = {0, 8}
        self.told: list[Situation] = []

    def __call__(self, situation: Situation) -> list[Pack]:
        self.told.append(situation)
        self.there |= {int(o.key) for o in situation.ended if o.key.isdigit()}
        ordered = sorted(self.there)
        between = {(a + b) // 2 for a, b in pairwise(ordered)}
        new = sorted(between - self.planned)
        self.planned |= set(new)
        return [pack for cell in new for pack in (train(f"t{cell}", str(cell)), of(cell))]


def of(cell: int) -> Pack:
    trials = (Trial(str(cell), PART, PART, {}, 0),)
    job = MetricJob(f"metric of {cell}", PART, (str(cell),))
    return Pack(f"m{cell}", "measure", cell, trials, (job,), (str(cell),))


def test_new_cells_are_added_while_a_run_goes_on() -> None:
    asked = Halving()
    scheduler = Scheduler([train("t0", "0"), train("t8", "8"), of(0), of(8)], set())
    run_packs(scheduler, Serial(succeed), silent, Stop(), RunOptions(), silent, ask=asked)
    assert asked.planned == set(range(9))
    assert scheduler.counts.done == scheduler.counts.total == 18
    assert sum(len(situation.ended) for situation in asked.told) == 18, "each is told once"


def test_who_adds_cells_is_told_of_failures_too() -> None:
    told: list[Outcome] = []

    def ask(situation: Situation) -> list[Pack]:
        told.extend(situation.ended)
        return []

    def fail(pack: Pack) -> list[Outcome]:
        return [Outcome(key, "failed", error="no", kind="app") for key in pack.job_keys()]

    once = Scheduler([train("t", "a")], set(), Retries(app=1))
    run_packs(once, Serial(fail), silent, Stop(), RunOptions(), silent, ask=ask)
    lost = Scheduler([train("t", "b")], set(), Retries(infra=0))
    run_packs(lost, LosesEachOnce(), silent, Stop(), RunOptions(), silent, ask=ask)
    assert [(o.key, o.status) for o in told] == [("a", "failed"), ("b", "failed")]


def test_nothing_is_added_to_a_run_that_was_stopped() -> None:
    stop = Stop()

    def ask(situation: Situation) -> list[Pack]:
        if situation.ended:
            stop.why = "enough"
        return [train(f"t{situation.ended}", str(len(situation.ended)))]

    scheduler = Scheduler([], set())
    run_packs(scheduler, Serial(succeed), silent, stop, RunOptions(), silent, ask=ask)
    assert scheduler.counts.done == 1
