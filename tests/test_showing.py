"""Texts for people: durations and the live view."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from store_support import COLUMNS, bare, make_store

from phasegrid.cli.render import status_text
from phasegrid.config.types import Retries
from phasegrid.jobs import MetricJob, Part, Trial
from phasegrid.keys import text_key
from phasegrid.packs import Outcome, Pack
from phasegrid.plan.contents import Cell, Plan
from phasegrid.plan.rows import job_rows
from phasegrid.run.executors.base import PackResult
from phasegrid.run.progress_bar import Watch
from phasegrid.run.scheduler import Scheduler
from phasegrid.run.status import job_names
from phasegrid.texts import duration

PART = Part("noop", 1, {})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59, "59 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_read_as_a_person_would_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_failures_are_shown_when_they_happen_and_once() -> None:
    out = io.StringIO()
    pack = Pack("p", "train", 0, (Trial("a", PART, PART, {}, 0),), cost_s=1.0)
    scheduler = Scheduler([pack], set())
    scheduler.next_pack()
    outcome = Outcome("a", "failed", error="ValueError: no such thing\nmore", kind="app")
    with Watch(
        Console(file=out, width=200), name_of={"a": "training, cell 0"}.__getitem__
    ) as watch:
        ending = PackResult(pack, [outcome])
        scheduler.finished(pack, [outcome])
        watch("finished", scheduler, pack, ending)
        watch("finished", scheduler, pack, ending)
    assert out.getvalue().count("failed training, cell 0 (a): ValueError: no such thing") == 1
    assert "more" not in out.getvalue()


def test_a_lost_pack_is_told_until_its_job_is_given_up() -> None:
    out = io.StringIO()
    trials = tuple(Trial(key, PART, PART, {}, 0) for key in "ab")
    scheduler = Scheduler([Pack("p", "train", 0, trials)], set(), Retries(infra=0))
    with Watch(Console(file=out, width=200), name_of="job {}".format) as watch:
        while pack := scheduler.next_pack():
            ending = PackResult(pack, lost="the process died")
            scheduler.lost(pack, "the process died")
            watch("lost", scheduler, pack, ending)
    assert out.getvalue().splitlines() == [
        "lost job a and 1 more, to be tried again: the process died",
        "failed job a (a): the process died",
        "failed job b (b): the process died",
    ]


def test_a_job_is_named_after_its_cell_and_seeds() -> None:
    trials = (Trial("a", PART, PART, {}, 0), Trial("b", PART, PART, {}, 7))
    jobs = (MetricJob("h", Part("hessian", 1, {}), ("b",)), MetricJob("c", PART, ("a", "b")))
    plan = Plan("toy", None, None, (Cell(3, (), None, None, trials, jobs),))
    assert job_names(plan) == {
        "a": "training, cell 3, seed 0",
        "b": "training, cell 3, seed 7",
        "h": "hessian, cell 3, seed 7",
        "c": "noop, cell 3, seeds 0, 7",
    }


def test_without_a_terminal_there_is_a_line_now_and_then_with_an_eta() -> None:
    out = io.StringIO()
    now = [0.0]
    packs = [
        Pack(f"p{i}", "train", 0, (Trial(str(i), PART, PART, {}, 0),), cost_s=1.0) for i in range(4)
    ]
    scheduler = Scheduler(packs, set())
    with Watch(Console(file=out, width=200), clock=lambda: now[0]) as watch:
        for _ in range(2):
            pack = scheduler.next_pack()
            assert pack is not None
            scheduler.finished(pack, [Outcome(pack.trials[0].key, "done")])
            now[0] += 10
            watch("finished", scheduler, pack, PackResult(pack))
    assert out.getvalue() == "2/4 jobs, ETA 20 s\n"


def test_while_a_training_runs_there_is_something_left() -> None:
    out, now = io.StringIO(), [0.0]
    packs = [Pack("p", "train", 0, (Trial("t", PART, PART, {}, 0),), cost_s=1.0)]
    scheduler = Scheduler(packs, set())
    with Watch(Console(file=out, width=200), clock=lambda: now[0]) as watch:
        scheduler.next_pack()
        watch.underway.note("p", 5, 5)
        now[0] = 20.0
        watch("tick", scheduler, None, None)
    assert out.getvalue() == "0/1 jobs, epoch 5 of 5, ETA a moment\n"


def test_the_eta_on_a_terminal_is_worked_out_once_a_second_at_most() -> None:
    """Working it out looks at every open pack: at every event, that would be quadratic in the
    number of packs.
    """
    looks, now = [0], [0.0]

    class Counted(Scheduler):
        @property
        def open_cost_s(self) -> float:
            looks[0] += 1
            return 1.0

    scheduler = Counted([], set())
    scheduler.done_cost_s = 1.0
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with Watch(console, clock=lambda: now[0]) as watch:
        for _ in range(500):
            now[0] += 0.01
            watch("tick", scheduler, None, None)
    assert 3 <= looks[0] <= 4  # in five seconds, of which the first two have no ETA


def test_status_counts_the_planned_measurements(tmp_path: Path) -> None:
    """Of a plan that does not tell of measurements, those over its trials are counted."""
    store = make_store(tmp_path)
    trials = [text_key("a"), text_key("b")]
    store.put_trial(bare("trials", "a"), [], {})
    for name in ("m", "unplanned"):
        row = bare("metrics/sharpness", name) | {"trials": trials[:1]}
        store.put_metric("sharpness", COLUMNS, row, [{"value": 1.0}])
    store.put_failure(bare("failures", "f") | {"key": text_key("n"), "exception": "ValueError: x"})
    rows = [{"cell": 0, "seed": i, "key": key} for i, key in enumerate(trials)]
    jobs = [
        {"cell": 0, "metric": metric, "key": text_key(name), "trials": trials[:1]}
        for metric, name in (("sharpness", "m"), ("sharpness", "n"), ("flatness", "o"))
    ]
    store.put_plan("toy", rows, jobs)
    assert status_text(store, "toy", as_json=False).splitlines() == [
        "toy: 1/2 trials stored, 1 failed attempts",
        "  flatness: 0/1 jobs stored",
        "  sharpness: 1/2 jobs stored",
        f"  last failure: {text_key('n')}: ValueError: x",
    ]
    (state,) = json.loads(status_text(store, "toy", as_json=True))
    assert state["metrics"] == {"flatness": 0, "sharpness": 1}
    assert state["metrics_planned"] == {"flatness": 1, "sharpness": 2}
    store.put_failure(bare("failures", "g") | {"key": trials[0], "exception": "ValueError: y"})
    said = status_text(store, "toy", as_json=False)
    assert "1/2 trials stored, 2 failed attempts, 1 of them later done\n" in said
    assert "ValueError: y" not in said
    store.put_metric(
        "sharpness",
        COLUMNS,
        bare("metrics/sharpness", "n") | {"trials": trials[:1]},
        [{"value": 1.0}],
    )
    assert "2 failed attempts, all later done\n" in status_text(store, "toy", as_json=False)
    store.put_plan("toy", rows)
    assert "  sharpness: 3 jobs stored" in status_text(store, "toy", as_json=False)


def test_every_job_of_a_plan_is_a_row() -> None:
    trial = Trial("a" * 32, PART, PART, {}, 0)
    jobs = tuple(
        MetricJob(digit * 32, Part(name, 1, {}), ("a" * 32,)) for digit, name in ("bx", "cy")
    )
    cells = (Cell(0, (), 1, 2, (trial,), jobs), Cell(1, (), 1, 3, (trial,), jobs[:1]))
    rows = job_rows(Plan("toy", None, None, cells))
    assert [(row["cell"], row["metric"], row["key"]) for row in rows] == [
        (0, "x", "b" * 32),
        (0, "y", "c" * 32),
        (1, "x", "b" * 32),
    ]
    assert rows[0]["trials"] == ["a" * 32]
