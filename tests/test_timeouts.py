"""A process whose work stands still is ended, and says where; one that goes on is left alone."""

import subprocess
import sys

import pytest

from phasegrid.run.watchdog import watched

GIVES_UP = """\
import time
from phasegrid.run import watchdog

def stand_still():
    while True:
        time.sleep(0.01)

with watchdog.watched({timeout_s}, print) as note_life:
    {work}
print("done")
"""
LETS_NOBODY_RUN = """\
import ctypes
from phasegrid.run import watchdog

watchdog.BACKUP_S = 0.1

def let_nobody_run():
    ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the interpreter to itself

with watchdog.watched(0.5, print) as note_life:
    let_nobody_run()
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-u", "-c", code], capture_output=True, text=True, timeout=120
    )


def test_a_process_that_stands_still_is_ended_and_says_where() -> None:
    ended = python(GIVES_UP.format(timeout_s=0.2, work="stand_still()"))
    assert ended.returncode == 1
    assert "done" not in ended.stdout
    assert "Standing still here (most recent call last):" in ended.stdout
    assert "in stand_still" in ended.stdout


def test_an_error_in_giving_up_does_not_keep_the_process_alive() -> None:
    code = GIVES_UP.format(timeout_s=0.2, work="stand_still()").replace("print)", "dict().pop)")
    assert python(code).returncode == 1


def test_code_that_lets_no_other_thread_run_is_ended_too() -> None:
    ended = python(LETS_NOBODY_RUN)
    assert ended.returncode == 1
    assert "in let_nobody_run" in ended.stderr


@pytest.mark.slow
def test_signs_of_life_put_the_end_off() -> None:
    work = (
        "end = time.monotonic() + 12\n    while time.monotonic() < end: note_life();"
        " time.sleep(0.01)"
    )
    well = python(GIVES_UP.format(timeout_s=10, work=work))
    assert (well.returncode, well.stdout) == (0, "done\n")


def test_work_that_ends_in_time_is_left_alone_and_so_is_what_comes_after_it() -> None:
    well = python(GIVES_UP.format(timeout_s=2, work="note_life()") + "time.sleep(2.5)\n")
    assert (well.returncode, well.stdout) == (0, "done\n")


def test_without_a_limit_nothing_is_watched() -> None:
    with watched(None, print) as note_life:
        note_life()
