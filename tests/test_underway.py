"""How far trainings have come before their first result: told here, noted by workers, shown in
words.
"""

import io
import uuid
from pathlib import Path

import pytest
from rich.console import Console

from phasegrid.jobs import Part, Trial
from phasegrid.packs import Outcome, Pack
from phasegrid.run.executors.base import PackResult
from phasegrid.run.progress_bar import Watch
from phasegrid.run.scheduler import Scheduler
from phasegrid.run.underway import Noted, Underway, epochs_text
from phasegrid.run.worker import node_folder

PART = Part("noop", 1, {})
POSIX = pytest.mark.skipif(node_folder.fcntl is None, reason="needs POSIX file locks")


def train_pack(name: str, cost_s: float = 10.0) -> Pack:
    return Pack(name, "train", 0, (Trial(name, PART, PART, {}, 0),), cost_s=cost_s)


def test_what_is_underway_is_said_in_words() -> None:
    assert epochs_text([]) == ""
    assert epochs_text([(35, 90)]) == "epoch 35 of 90"
    assert epochs_text([(35, 90), (12, 90)]) == "epochs 12 to 35 of 90 in 2 packs"
    assert epochs_text([(35, 90), (12, 80), (1, 80)]) == "epochs 1 to 35 in 3 packs"


@POSIX
def test_what_a_worker_notes_is_read_until_its_pack_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run, now = uuid.uuid4().hex, [0.0]
    noted, underway = Noted(run, "p", clock=lambda: now[0]), Underway(run)
    noted.note(1, 90)
    assert not list(tmp_path.iterdir())  # a pack that takes a moment is not worth a file
    for now[0], epoch in ((1.0, 7), (1.5, 8), (2.5, 9), (2.6, 10)):
        noted.note(epoch, 90)
    assert underway.of(["p", "other"]) == {"p": (9, 90)}
    (node_folder.folder_of(run) / "other.epochs").write_text("12")  # not whole
    assert underway.of(["p", "other"]) == {"p": (9, 90)}
    noted.forget()
    assert underway.of(["p"]) == {}
    node_folder.forget(run)


def test_without_a_folder_nothing_is_noted() -> None:
    now = [0.0]
    noted = Noted(None, "p", clock=lambda: now[0])
    for now[0] in (0.0, 5.0):
        noted.note(1, 2)
    noted.forget()
    assert Underway().of(["p"]) == {}


def test_the_first_lines_of_a_run_tell_its_epochs_and_give_an_eta() -> None:
    out, now = io.StringIO(), [0.0]
    scheduler, underway = Scheduler([train_pack("a"), train_pack("b", 30.0)], set()), Underway()
    with Watch(Console(file=out, width=200), clock=lambda: now[0], underway=underway) as watch:
        pack = scheduler.next_pack()
        assert pack is not None
        assert pack.key == "b"
        watch("submitted", scheduler, pack, None)
        for epoch in range(1, 11):
            now[0] += 3.0
            underway.note("b", epoch, 20)
        scheduler.finished(pack, [Outcome("b", "done")])
        watch("finished", scheduler, pack, PackResult(pack))
    # Of 40 s by the prediction, 7.5 s are done after 15 s and 15 s after 30 s.
    assert out.getvalue().splitlines() == [
        "0/2 jobs, epoch 5 of 20, ETA 1 min 05 s",
        "0/2 jobs, epoch 10 of 20, ETA 50 s",
    ]


def test_nothing_is_shown_of_a_quiet_run() -> None:
    out, now = io.StringIO(), [0.0]
    scheduler, underway = Scheduler([train_pack("a")], set()), Underway()
    watch = Watch(Console(file=out), quiet=True, clock=lambda: now[0], underway=underway)
    with watch:
        pack = scheduler.next_pack()
        watch("submitted", scheduler, pack, None)
        now[0] = 60.0
        underway.note("a", 5, 20)
    assert out.getvalue() == ""
