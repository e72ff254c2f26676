"""Texts for people: durations and the live view."""

import io

import pytest
from rich.console import Console

from phasegrid.console import Watch, duration
from phasegrid.executors import Ending
from phasegrid.jobs import Outcome, Pack, Part, Trial
from phasegrid.progress import Progress

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
    progress = Progress([pack], set())
    progress.next_pack()
    outcome = Outcome("a", "failed", error="ValueError: no such thing\nmore", kind="app")
    with Watch(Console(file=out, width=200)) as watch:
        ending = Ending(pack, [outcome])
        progress.finished(pack, [outcome])
        watch("finished", progress, pack, ending)
        watch("finished", progress, pack, ending)
    assert out.getvalue().count("failed a: ValueError: no such thing") == 1
    assert "more" not in out.getvalue()


def test_without_a_terminal_there_is_a_line_now_and_then_with_an_eta() -> None:
    out = io.StringIO()
    now = [0.0]
    packs = [
        Pack(f"p{i}", "train", 0, (Trial(str(i), PART, PART, {}, 0),), cost_s=1.0) for i in range(4)
    ]
    progress = Progress(packs, set())
    with Watch(Console(file=out, width=200), clock=lambda: now[0]) as watch:
        for _ in range(2):
            pack = progress.next_pack()
            assert pack is not None
            progress.finished(pack, [Outcome(pack.trials[0].key, "done")])
            now[0] += 10
            watch("finished", progress, pack, Ending(pack))
    assert out.getvalue() == "2/4 jobs, ETA 20 s\n"
