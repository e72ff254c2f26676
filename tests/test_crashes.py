"""Laws of what a process leaves that dies without an exception."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phasegrid.cli.main import app
from phasegrid.run import crashes, witness

REPOSITORY = Path(__file__).resolve().parent.parent
METRIC = """\
import os
import signal
from dataclasses import dataclass

from phasegrid.declare import Column, Metric

@dataclass(frozen=True)
class Args:
    pass

def compute(models, data, rng):
    if models[0].classifier.in_features == 3:
        {fault}
    return {{"value": 1.0}}

FAULTY = Metric(over="trial", args=Args, columns=(Column("value", "float64", "", "units"),), compute=compute)
"""
SWEEP = """\
schema: 1
name: faulty
dataset: {name: digits, fraction: 0.1}
model: {name: mlp, depth: 1}
train: {batch_size: 32, epochs: 1, stop: null}
seeds: 1
load: {param: model.width, values: [2, 3, 4]}
metrics: ['faulty.py:FAULTY']
"""


def write_sweep(folder: Path, fault: str) -> Path:
    (folder / "faulty.py").write_text(METRIC.format(fault=fault))
    (folder / "faulty.yaml").write_text(SWEEP)
    return folder / "faulty.yaml"


def run_child(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    variables.pop("PYTHONFAULTHANDLER", None)
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)


def test_a_serial_run_that_crashes_names_signal_place_and_job(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)")
    run = "import sys; from phasegrid.cli.main import main; sys.argv[0] = 'phasegrid'; main()"
    options = ["--serial", "-q", "--storage", str(tmp_path / "store")]
    done = run_child(run, "run", str(sweep), *options)
    assert done.returncode == -signal.SIGSEGV
    assert "phasegrid run --serial: its process died of SIGSEGV\n" in done.stderr
    assert "in compute" in done.stderr
    assert "The jobs it was doing: faulty.py:FAULTY, cell 1, seed 0." in done.stderr
    assert "without --serial" in done.stderr


def test_a_serial_run_that_loses_its_gpu_stops_with_exit_code_4(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, "raise RuntimeError('CUDA error: misaligned address')")
    command = ["run", str(sweep), "--serial", "-q", "--storage", str(tmp_path / "store")]
    done = CliRunner().invoke(app, command, catch_exceptions=True)
    said = f"{done.output}{done.exception}"
    assert "the GPU was lost in faulty.py:FAULTY, cell 1, seed 0: RuntimeError: CUDA error" in said
    assert "without --serial" in said
    assert "failed faulty.py" not in said
    (tmp_path / "faulty.py").write_text(METRIC.format(fault="pass"))
    command.append("--accept-changed-code")
    assert CliRunner().invoke(app, command).exit_code == 0


WATCHED = """\
import os, signal, sys
from phasegrid.run.crashes import witnessed
with witnessed() as begin:
    begin(["training, cell 0, seed 1", "b", "c", "d", "e"])
    exec(sys.argv[1])
"""


@pytest.mark.parametrize("way", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(3)"])
def test_a_process_that_was_ended_without_a_word_is_told_of_too(way: str) -> None:
    done = run_child(WATCHED, way)
    assert "killed (out of memory?), or ended by the code it ran" in done.stderr
    assert "The jobs it was doing: training, cell 0, seed 1; b; c; 2 more." in done.stderr


@pytest.mark.parametrize("way", ["pass", "raise SystemExit(3)"])
def test_nothing_is_told_of_a_process_that_ends_as_it_should(way: str) -> None:
    done = run_child(WATCHED, way)
    assert done.stderr == ""


def test_a_watched_process_goes_on_without_its_witness() -> None:
    children = "open(f'/proc/self/task/{os.getpid()}/children').read().split()"
    kill = f"[os.kill(int(child), signal.SIGKILL) for child in {children}]; begin(['f'])"
    assert run_child(WATCHED, f"{kill}; begin(['g'])").returncode == 0


def test_a_crash_is_found_by_the_attempt_that_the_process_was_at(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from phasegrid.run.crashes import note_attempt\n"
        "[note_attempt(Path(sys.argv[1]), name) for name in ('first', 'second')]; os.abort()"
    )
    assert run_child(code, str(tmp_path)).returncode == -signal.SIGABRT
    assert crashes.find_crash(tmp_path, "first") is None
    found = crashes.find_crash(tmp_path, "second")
    assert found is not None
    assert found.why == "its process died of SIGABRT"
    assert "Extension modules" not in found.text


@pytest.mark.parametrize(("is_of_hardware", "kind"), [(True, "infra"), (False, "crash")])
def test_a_word_that_blames_the_hardware_blames_no_job(
    tmp_path: Path, is_of_hardware: bool, kind: str
) -> None:
    code = (
        "import sys; from pathlib import Path; from phasegrid.run import crashes\n"
        "folder = Path(sys.argv[1]); crashes.note_attempt(folder, 'first')\n"
        f"crashes.leave_word(folder, 'its GPU was lost\\nstack', {is_of_hardware})"
    )
    assert run_child(code, str(tmp_path)).returncode == 0
    expected = crashes.Crash("its GPU was lost", "its GPU was lost\nstack", kind)  # type: ignore[arg-type]
    assert crashes.find_crash(tmp_path, "first") == expected


def test_what_else_ends_a_process_is_told_in_its_own_words() -> None:
    assert witness.cause("its GPU was lost: CUDA error\nstack") == "its GPU was lost: CUDA error"
    told = witness.tell(
        [f"{witness.DOING}a\n", f"{witness.DOING}b\n", "Fatal Python error: Aborted\n"]
    )
    assert told is not None
    assert "SIGABRT" in told
    assert "doing: b." in told
    assert witness.tell([f"{witness.DOING}a\n", f"{witness.ENDED}\n"]) is None
