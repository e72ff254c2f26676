"""The policy of a run: laws that hold whatever the executor does."""

import random
from dataclasses import replace

import pytest

from phasegrid.config.types import Retries
from phasegrid.jobs import Artifact, MetricJob, Part, RequestFacts, Start, Trial
from phasegrid.packs import Layout, Outcome, Pack, needs_of
from phasegrid.run.executors.base import LostKind
from phasegrid.run.scheduler import Scheduler

PART = Part("noop", 1, {})
KINDS: tuple[LostKind, ...] = ("infra", "oom", "timeout", "app", "crash")


def trial(key: str) -> Trial:
    return Trial(key, PART, PART, {}, 0)


def train(name: str, *keys: str, cost_s: float = 1.0) -> Pack:
    return Pack(name, "train", 0, tuple(trial(key) for key in keys), cost_s=cost_s)


def measure(name: str, jobs: dict[str, tuple[str, ...]], cost_s: float = 1.0) -> Pack:
    needs = tuple(dict.fromkeys(key for keys in jobs.values() for key in keys))
    made = tuple(MetricJob(key, PART, trials) for key, trials in jobs.items())
    return Pack(name, "measure", 0, tuple(map(trial, needs)), made, needs, cost_s)


def done(pack: Pack) -> list[Outcome]:
    return [Outcome(key, "done") for key in pack.job_keys()]


def failed(pack: Pack, kind: str = "app") -> list[Outcome]:
    return [Outcome(key, "failed", error="ValueError: no", kind=kind) for key in pack.job_keys()]  # type: ignore[arg-type]


def test_a_measurement_waits_for_its_trials() -> None:
    scheduler = Scheduler(
        [train("t", "a", "b"), measure("m", {"h": ("a",), "c": ("a", "b")})], set()
    )
    first = scheduler.next_pack()
    assert first is not None
    assert first.key == "t"
    assert scheduler.next_pack() is None
    scheduler.finished(first, done(first))
    second = scheduler.next_pack()
    assert second is not None
    assert second.key == "m"
    scheduler.finished(second, done(second))
    assert scheduler.over
    assert scheduler.counts.done == 4


def test_stored_trials_are_not_waited_for() -> None:
    scheduler = Scheduler([measure("m", {"h": ("a",)})], {"a"})
    assert scheduler.next_pack() is not None


def test_a_measurement_of_an_unknown_trial_is_blocked_and_named() -> None:
    scheduler = Scheduler([measure("m", {"h": ("a",)})], set())
    assert scheduler.over
    assert scheduler.failures["h"] == "blocked: trial a is neither stored nor planned"


def test_open_cells_come_first_then_the_longest() -> None:
    packs = [
        train("short", "a", cost_s=1),
        train("long", "b", cost_s=9),
        measure("m", {"h": ("z",)}, cost_s=0.1),
    ]
    scheduler = Scheduler(packs, {"z"})
    order = [pack.key for pack in iter(scheduler.next_pack, None)]
    assert order == ["m", "long", "short"]


def test_a_failed_trial_blocks_only_what_needs_it() -> None:
    packs = [
        train("ta", "a"),
        train("tb", "b"),
        measure("m", {"ha": ("a",), "hb": ("b",), "c": ("a", "b")}),
    ]
    scheduler = Scheduler(packs, set())
    for pack in list(iter(scheduler.next_pack, None)):
        scheduler.finished(pack, failed(pack) if pack.key == "ta" else done(pack))
    rest = scheduler.next_pack()
    assert rest is not None
    assert rest.job_keys() == ("hb",)
    scheduler.finished(rest, done(rest))
    assert (scheduler.counts.failed, scheduler.counts.blocked, scheduler.counts.done) == (1, 2, 2)
    assert scheduler.counts.open == 0


def test_an_exception_is_retried_as_often_as_allowed_and_a_lost_process_does_not_count_as_one() -> (
    None
):
    scheduler = Scheduler([train("t", "a")], set(), Retries(app=1, infra=2))
    pack = scheduler.next_pack()
    assert pack is not None
    assert scheduler.lost(pack, "worker died")
    pack = scheduler.next_pack()
    assert pack is not None
    scheduler.finished(pack, failed(pack))
    pack = scheduler.next_pack()
    assert pack is not None
    scheduler.finished(pack, failed(pack))
    assert scheduler.over
    assert scheduler.failures == {"a": "ValueError: no"}


def test_a_poison_job_is_found_by_name_and_the_others_are_done() -> None:
    scheduler = Scheduler([train("t", *"abcdefgh")], set(), Retries(infra=3))
    for _ in range(200):
        pack = scheduler.next_pack()
        if pack is None:
            break
        if "f" in pack.job_keys():
            scheduler.lost(pack, "worker died")
        else:
            scheduler.finished(pack, done(pack))
    assert scheduler.over
    assert scheduler.counts.done == 7
    assert list(scheduler.failures) == ["f"]


@pytest.mark.parametrize(("infra", "expected"), [(5, [3, 3, 1]), (0, [3, 1])])
def test_a_job_that_crashes_its_process_is_blamed_after_few_tries(
    infra: int, expected: list[int]
) -> None:
    scheduler = Scheduler([train("t", *"abc")], set(), Retries(infra=infra))
    sizes = []
    while pack := scheduler.next_pack():
        if "b" in pack.job_keys():
            sizes.append(len(pack.job_keys()))
            scheduler.lost(pack, "its process died of SIGSEGV", "crash")
        else:
            scheduler.finished(pack, done(pack))
    assert sizes == expected
    assert list(scheduler.failures) == ["b"]
    assert scheduler.counts.done == 2


def started(scheduler: Scheduler) -> Pack:
    pack = scheduler.next_pack()
    assert pack is not None
    return pack


def test_a_pack_that_stood_still_is_not_tried_again_as_a_whole_and_the_guilty_is_found() -> None:
    scheduler = Scheduler([train("t", *"abc")], set(), Retries(infra=5))
    scheduler.lost(started(scheduler), "stood still", "timeout")
    while pack := scheduler.next_pack():
        assert len(pack.job_keys()) == 1
        if pack.job_keys() == ("b",):
            assert not scheduler.lost(pack, "stood still", "timeout")
        else:
            scheduler.finished(pack, done(pack))
    assert scheduler.failures == {"b": "stood still"}
    assert (scheduler.counts.done, scheduler.counts.failed) == (2, 1)


@pytest.mark.parametrize("kind", ["timeout", "app"])
def test_a_job_that_stands_still_or_raises_is_tried_as_often_as_exceptions_are(
    kind: LostKind,
) -> None:
    scheduler = Scheduler([train("t", "a")], set(), Retries(app=2, infra=0))
    tries = 1
    while scheduler.lost(started(scheduler), "no", kind):
        tries += 1
    assert tries == 3
    assert scheduler.failures == {"a": "no (each of 3 times)"}


def test_a_pack_too_large_for_the_memory_is_halved_until_it_fits() -> None:
    scheduler = Scheduler([train("t", *"abcdefg")], set(), Retries(infra=0))
    sizes = []
    while pack := scheduler.next_pack():
        sizes.append(len(pack.job_keys()))
        if sizes[-1] > 2:
            assert scheduler.lost(pack, "out of memory", "oom")
        else:
            scheduler.finished(pack, done(pack))
    assert sorted(sizes) == [1, 2, 2, 2, 3, 4, 7]
    assert scheduler.counts.done == 7


def test_a_job_too_large_for_the_memory_alone_is_tried_as_often_as_lost_processes_are() -> None:
    scheduler = Scheduler([train("t", "a")], set(), Retries(app=0, infra=1))
    assert scheduler.lost(started(scheduler), "out of memory", "oom")
    assert not scheduler.lost(started(scheduler), "out of memory", "oom")
    assert scheduler.failures == {"a": "out of memory (each of 2 times)"}


def stack_of(pack: Pack, *all_keys: str) -> Pack:
    """Return a training pack laid out with others, which are stored."""
    return replace(pack, layout=Layout(trials=tuple(map(trial, all_keys))))


@pytest.mark.parametrize("kind", ["app", "infra"])
def test_what_is_tried_again_keeps_its_layout(kind: LostKind) -> None:
    retries = Retries(app=1, infra=1)
    whole = stack_of(train("t", "a", "b"), "a", "b", "c")
    scheduler = Scheduler([whole], {"c"}, retries)
    pack = scheduler.next_pack()
    assert pack is not None
    if kind == "app":
        scheduler.finished(pack, [Outcome("a", "done"), *failed(train("t", "b"))])
    else:
        scheduler.lost(pack, "its process died", kind)
    again = scheduler.next_pack()
    assert again is not None
    assert again.layout == whole.layout


def test_a_job_is_blamed_only_after_it_was_tried_without_those_that_stand_in_its_stack() -> None:
    scheduler = Scheduler([stack_of(train("t", "a"), "a", "b")], {"b"}, Retries(infra=1))
    layouts = []
    while (pack := scheduler.next_pack()) is not None:
        layouts.append(pack.layout is not None)
        scheduler.lost(pack, "its process died")
    assert layouts == [True, True, False]
    assert scheduler.counts.failed == 1


def test_measurements_that_are_left_are_grouped_without_those_over_a_failed_trial() -> None:
    pack = measure("m", {"ab": ("a", "b"), "bc": ("b", "c")})
    stored = MetricJob("ac", PART, ("a", "c"))
    pack = replace(pack, layout=Layout(groups=((*pack.metric_jobs, stored),)))
    scheduler = Scheduler([train("ta", "a"), train("tb", "b"), train("tc", "c"), pack], set())
    while (found := scheduler.next_pack()) is not None and found.kind == "train":
        ended = failed(found) if found.key == "ta" else done(found)
        scheduler.finished(found, ended)
    assert found is not None
    assert found.job_keys() == ("bc",)
    assert found.layout == Layout(groups=((pack.metric_jobs[1],),))
    assert set(found.needs) == {"b", "c"}


@pytest.mark.parametrize("seed", range(20))
def test_every_job_ends_exactly_once_under_random_faults(seed: int) -> None:
    rng = random.Random(seed)
    packs = []
    for cell in range(12):
        keys = [f"{cell}.{i}" for i in range(rng.randint(1, 4))]
        packs.append(train(f"t{cell}", *keys))
        jobs = {
            f"{cell}.m{i}": tuple(rng.sample(keys, rng.randint(1, len(keys))))
            for i in range(rng.randint(1, 5))
        }
        packs.append(measure(f"m{cell}", jobs))
    scheduler = Scheduler(packs, set(), Retries(app=1, infra=3))
    total = scheduler.counts.total
    running: list[Pack] = []
    for _ in range(10_000):
        while len(running) < 3 and (pack := scheduler.next_pack()):
            running.append(pack)
        if not running:
            break
        pack = running.pop(rng.randrange(len(running)))
        if rng.random() < 0.2:
            scheduler.lost(pack, "worker died", rng.choice(KINDS))
            continue
        outcomes = [
            failed(pack)[i] if rng.random() < 0.1 else outcome
            for i, outcome in enumerate(done(pack))
        ]
        scheduler.finished(pack, outcomes)
    assert scheduler.over
    counts = scheduler.counts
    assert counts.done + counts.failed + counts.blocked == total
    assert len(scheduler.failures) == counts.failed + counts.blocked
    assert counts.open == 0


def test_a_measurement_added_for_trials_that_are_done_starts_at_once() -> None:
    scheduler = Scheduler([train("t", "a")], set())
    first = started(scheduler)
    scheduler.finished(first, done(first))
    scheduler.add([measure("m", {"h": ("a",)})])
    assert started(scheduler).key == "m"
    assert scheduler.counts.total == 2


def test_a_cell_added_while_a_run_goes_on_waits_for_its_own_trials() -> None:
    scheduler = Scheduler([train("t", "a")], {"z"})
    running = started(scheduler)
    scheduler.add([measure("m", {"h": ("a", "b", "z")}), train("u", "b")])
    assert started(scheduler).key == "u"
    assert scheduler.next_pack() is None
    scheduler.finished(running, done(running))
    assert scheduler.next_pack() is None, "b is not there yet"


def test_a_measurement_added_for_a_trial_that_failed_is_blocked_and_names_it() -> None:
    scheduler = Scheduler([train("t", "a")], {"z"})
    first = started(scheduler)
    scheduler.finished(first, failed(first))
    scheduler.add([measure("m", {"h": ("a",), "c": ("z",)})])
    assert scheduler.failures["h"] == "blocked: trial a failed"
    assert started(scheduler).job_keys() == ("c",)
    assert scheduler.counts.blocked == 1


def test_no_pack_is_added_twice() -> None:
    scheduler = Scheduler([train("t", "a")], set())
    with pytest.raises(AssertionError, match="pack t is added twice"):
        scheduler.add([train("t", "a")])


def reading(key: str, of: str, depth: int, *trials: str) -> MetricJob:
    return MetricJob(key, PART, trials, RequestFacts(depth=depth), (Artifact(of, "curve"),))


def pack_of(name: str, *jobs: MetricJob) -> Pack:
    about = dict.fromkeys(key for job in jobs for key in job.trials)
    return Pack(name, "measure", 0, tuple(map(trial, about)), jobs, needs_of(jobs))


def test_a_measurement_of_what_another_leaves_waits_for_it() -> None:
    first, last = measure("m", {"c": ("a",)}), pack_of("e", reading("e", "c", 1, "a"))
    scheduler = Scheduler([last, train("t", "a"), first], set())
    order = []
    while (pack := scheduler.next_pack()) is not None:
        assert scheduler.next_pack() is None
        order.append(pack.key)
        scheduler.finished(pack, done(pack))
    assert order == ["t", "m", "e"]


def test_blocking_goes_on_to_all_that_waits_and_names_the_job_that_failed() -> None:
    packs = [
        train("t", "a", "b"),
        measure("m", {"c": ("a",)}),
        measure("n", {"d": ("b",)}),
        pack_of("e", reading("ec", "c", 1, "a"), reading("ed", "d", 1, "b")),
        pack_of("p", reading("pc", "ec", 2, "a"), reading("pd", "ed", 2, "b")),
    ]
    scheduler = Scheduler(packs, set())
    ended = []
    while (pack := scheduler.next_pack()) is not None:
        ended += pack.job_keys()
        scheduler.finished(pack, failed(pack) if pack.key == "m" else done(pack))
    assert sorted(ended) == ["a", "b", "c", "d", "ed", "pd"]
    blocked = {"ec": "blocked: noop c failed", "pc": "blocked: noop c failed"}
    assert scheduler.failures == {"c": "ValueError: no", **blocked}
    assert (scheduler.counts.failed, scheduler.counts.blocked) == (1, 2)
    assert scheduler.counts.open == 0


def test_a_training_that_starts_from_another_waits_for_it_and_is_blocked_with_it() -> None:
    def started(key: str, parent: str) -> Trial:
        return replace(trial(key), start=Start(Artifact(parent, "weights@epoch-2")))

    children = (started("b", "a"), started("d", "c"))
    packs = [
        Pack("t2", "train", 0, children, needs=("a", "c"), layout=Layout(trials=children)),
        train("t1", "a"),
        train("t0", "c"),
        measure("m", {"h": ("b",), "g": ("d",)}),
    ]
    scheduler = Scheduler(packs, set())
    trained = []
    while (pack := scheduler.next_pack()) is not None:
        trained += pack.job_keys()
        scheduler.finished(pack, failed(pack) if pack.key == "t1" else done(pack))
    assert trained[2:] == ["d", "g"]
    assert scheduler.failures["b"] == scheduler.failures["h"] == "blocked: trial a failed"
