"""The serial executor and the run loop around it."""

from collections.abc import Sequence
from contextlib import nullcontext

import pytest

from phasegrid.config.types import Retries, RunOptions
from phasegrid.errors import ClusterError
from phasegrid.jobs import Outcome, Pack, Part, Trial
from phasegrid.run.executors.base import PackResult, Serial
from phasegrid.run.loop import Stop, Stopped, run_packs
from phasegrid.run.scheduler import Progress

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
    progress = Progress([train("t1", "a", "b"), train("t2", "c")], set())
    run_packs(progress, Serial(succeed), silent, Stop(), RunOptions(), silent)
    assert progress.counts.done == 3
    assert progress.over


def test_lost_packs_are_recorded_and_done_again() -> None:
    progress = Progress([train("t1", "a"), train("t2", "b")], set(), Retries(infra=2))
    lost: list[tuple[str, str | None, int]] = []
    run_packs(
        progress,
        LosesEachOnce(),
        silent,
        Stop(),
        RunOptions(),
        lambda ending, attempt: lost.append((ending.pack.key, ending.lost, attempt)),
    )
    assert progress.counts.done == 2
    assert sorted(lost) == [("t1", "worker died", 1), ("t2", "worker died", 1)]


def test_a_stop_request_launches_nothing_more() -> None:
    stop = Stop()
    done: list[str] = []

    def do(pack: Pack) -> Sequence[Outcome]:
        done.append(pack.key)
        stop.why = "Ctrl-C"
        return succeed(pack)

    progress = Progress([train(f"t{i}", str(i)) for i in range(5)], set())
    run_packs(progress, Serial(do), silent, stop, RunOptions(), silent)
    assert len(done) == 1
    assert progress.counts.done == 1
    assert progress.counts.open == 4


@pytest.mark.parametrize("stopped", [True, False])
def test_a_cluster_that_is_stopped_with_us_is_no_error(stopped: bool) -> None:
    """A batch system sends SIGTERM to all processes of a job, and Ray's own die of it first."""
    stop = Stop()

    def do(_pack: Pack) -> list[Outcome]:
        stop.why = "SIGTERM" if stopped else None
        raise ClusterError("its raylet on this machine has died")

    progress = Progress([train("t", "a")], set())
    with nullcontext() if stopped else pytest.raises(ClusterError):
        run_packs(progress, Serial(do), silent, stop, RunOptions(), silent)
    assert progress.counts.open == 1


def test_work_that_stops_itself_ends_the_run_without_an_error() -> None:
    def do(_: Pack) -> Sequence[Outcome]:
        raise Stopped

    stop = Stop()
    progress = Progress([train("t", "a")], set())
    run_packs(progress, Serial(do), silent, stop, RunOptions(), silent)
    assert stop.why == "stopped"
    assert progress.counts.open == 1


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
    progress = Progress([train(f"t{i}", str(i)) for i in range(5)], set())
    run_packs(progress, Serial(fail), silent, stop, options, silent)
    assert stop.why is not None
    assert stop.why.startswith(expected)
    assert progress.counts.open > 0
