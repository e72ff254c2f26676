"""Jobs that raise, hang, exit, eat memory, kill their worker, or return what they must not: one
sweep with all of them.

The run ends, names each, keeps why it failed, and does every other job, in the same pack too.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

import phasegrid
from phasegrid.cli.main import app
from tests.faults.commands import command, run
from tests.faults.comparing import assert_same_results, assert_whole

TROUBLE = "trouble-is-on"  # a file beside the plug-in; without it every job is well
FAULTS = '''\
"""Metrics that go wrong at width 3 while the file `trouble-is-on` is beside this one."""
import os
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from phasegrid.declare import Column, Metric

@dataclass(frozen=True)
class Args:
    pass

def in_trouble(models):
    return models[0].classifier.in_features == 3 and Path(__file__).with_name("trouble-is-on").exists()

def raises():
    raise RuntimeError("cannot measure this")

def hangs():
    while True:
        time.sleep(0.1)

def exits():
    os._exit(3)

def is_killed():
    os.kill(os.getpid(), signal.SIGKILL)

def aborts():
    os.abort()

def loses_its_gpu():
    raise RuntimeError("CUDA error: misaligned address")

def eats_memory():
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, before[1]))
    try:
        return {"value": float(len(bytearray(2**32)))}
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

def eats_memory_in_torch():
    return {"value": torch.empty(2**55).numel()}

def returns_wrong_columns():
    return {"valeu": 1.0}

def returns_nan():
    return {"value": float("nan")}

def returns_nan_late():
    return [{"value": 1.0}, {"value": float("nan")}]

def metric(fault):
    def compute(models, data, rng):
        return fault() if in_trouble(models) else {"value": float(models[0].classifier.in_features)}
    return Metric(over="trial", args=Args, columns=(Column("value", "float64", "", "units"),), compute=compute)

'''


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and what is kept of it: the `kind` of its failures, and a part of the
    exception and of the traceback.
    """

    function: str
    kind: str
    exception: str
    traceback: str | None = None

    @property
    def name(self) -> str:
        return f"faults.py:{self.function.upper()}"


RAISED = [
    Fault("raises", "app", "RuntimeError: cannot measure this", "in raises"),
    Fault("eats_memory", "oom", "MemoryError", "in eats_memory"),
    Fault("eats_memory_in_torch", "oom", "can't allocate memory", "in eats_memory_in_torch"),
    Fault("returns_wrong_columns", "app", "has no column 'valeu'; did you mean 'value'?", "put_metric"),
    Fault("returns_nan", "app", "column 'value' is double: found NaN", "put_metric"),
    Fault("returns_nan_late", "app", "column 'value' is double: found NaN", "put_metric"),
]  # fmt: skip
DEADLY = [
    Fault("hangs", "timeout", "no measurement ended within 20 s (run.timeout_s)", "time.sleep(0.1)"),
    Fault("exits", "infra", "WorkerCrashedError: its process died"),
    Fault("is_killed", "infra", "WorkerCrashedError: its process died"),
    Fault("aborts", "crash", "its process died of SIGABRT", "in aborts"),
    Fault("loses_its_gpu", "crash", "its GPU was lost: RuntimeError: CUDA error: misaligned", "in loses_its_gpu"),
]  # fmt: skip
WIDTHS = (2, 3, 4)


@dataclass(frozen=True)
class Run:
    """How a disturbed run ended, and what it said; its store is beside that of one that was not
    disturbed.
    """

    code: int
    said: str
    folder: Path

    @property
    def storage(self) -> Path:
        return self.folder / "store"

    @property
    def undisturbed(self) -> Path:
        return self.folder / "undisturbed"


def write_sweep(folder: Path, faults: list[Fault]) -> Path:
    lines = [f"{fault.function.upper()} = metric({fault.function})" for fault in faults]
    (folder / "faults.py").write_text(FAULTS + "\n".join(lines) + "\n")
    metrics = ", ".join(["accuracy", *(f"'{fault.name}'" for fault in faults)])
    path = folder / "faulty.yaml"
    path.write_text(
        "schema: 1\nname: faulty\ndataset: {name: digits, fraction: 0.1}\nmodel: {name: mlp,"
        " depth: 1}\ntrain: {batch_size: 32, epochs: 2, stop: null}\nseeds: 1\nload: {param:"
        f" model.width, values: {list(WIDTHS)}}}\nmetrics: [{metrics}]\nrun: {{pack_size: 1,"
        " retries: {infra: 1}, timeout_s: 20}\n"
    )
    return path


def run_here(sweep: Path, storage: Path) -> tuple[int, str]:
    """Run in this process, which spares a second of imports; return exit code and what was said."""
    done = CliRunner().invoke(app, command(sweep, storage, "-q", "--serial")[3:])
    return done.exit_code, done.output


def disturbed(folder: Path, faults: list[Fault], *where: str) -> Run:
    sweep = write_sweep(folder, faults)
    code, said = run_here(sweep, folder / "undisturbed")
    assert code == 0, said
    (folder / TROUBLE).touch()
    if not where:
        return Run(*run_here(sweep, folder / "store"), folder)
    done = run(sweep, folder / "store", *where)
    return Run(done.returncode, done.stderr, folder)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Those faults that leave their process alive, in this process."""
    return disturbed(tmp_path_factory.mktemp("here"), RAISED)


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every fault, on Ray."""
    return disturbed(tmp_path_factory.mktemp("on_ray"), RAISED + DEADLY, "--num-cpus", "2")


def job_of(found: Run, fault: Fault) -> str:
    """Return the key of the job that goes wrong: the fault's metric at width 3."""
    rows = phasegrid.open(str(found.undisturbed)).metric(fault.name)
    (key,) = rows.loc[rows["value"] == 3.0, "key"]
    return str(key)


def assert_the_others_are_done(found: Run, faults: list[Fault]) -> None:
    lacking = {job_of(found, fault) for fault in faults}
    assert len(lacking) == len(faults)
    assert_same_results(found.storage, found.undisturbed, lacking)
    assert_whole(found.storage, lacking)
    total = len(WIDTHS) * (2 + len(faults))
    assert f"{total - len(faults)} of {total} jobs stored, {len(faults)} failed" in found.said
    assert found.code == 1


def assert_kept_and_named(found: Run, fault: Fault) -> None:
    key = job_of(found, fault)
    failures = phasegrid.open(str(found.storage)).failures()
    mine = failures[failures["key"] == key]
    assert set(mine["kind"]) == {fault.kind}
    assert mine["exception"].str.contains(fault.exception, regex=False).all()
    if fault.traceback:
        assert mine["traceback"].str.contains(fault.traceback, regex=False).all()
    named = [
        line
        for line in found.said.splitlines()
        if line.startswith(f"failed {fault.name}, cell 1, seed 0 ({key}): ")
    ]
    assert len(named) == 1, found.said
    assert fault.exception in named[0]


def assert_mended_by_running_again(found: Run, tmp_path: Path) -> None:
    """The next run, without the trouble, does what is missing and nothing else."""
    for name in ("faults.py", "faulty.yaml", "store"):
        copy = shutil.copytree if (found.folder / name).is_dir() else shutil.copy
        copy(found.folder / name, tmp_path / name)
    code, said = run_here(tmp_path / "faulty.yaml", tmp_path / "store")
    assert code == 0, said
    assert_same_results(tmp_path / "store", found.undisturbed)


def test_failures_in_this_process_leave_every_other_job_done(here: Run) -> None:
    assert_the_others_are_done(here, RAISED)


@pytest.mark.parametrize("fault", RAISED, ids=lambda fault: fault.function)
def test_a_failure_in_this_process_is_kept_and_named(here: Run, fault: Fault) -> None:
    assert_kept_and_named(here, fault)


def test_what_failed_in_this_process_is_done_when_the_trouble_is_over(
    here: Run, tmp_path: Path
) -> None:
    assert_mended_by_running_again(here, tmp_path)


def test_the_tracebacks_of_the_cell_that_is_named_are_told(here: Run) -> None:
    from phasegrid.store.store import Store
    from phasegrid.submit.logs import failures_text

    assert "phasegrid logs --cell 1 --sweep faulty --storage" in here.said
    text = failures_text(Store.open(str(here.storage)), "faulty", 1)
    assert "RuntimeError: cannot measure this" in text


@pytest.mark.slow
def test_failures_on_ray_leave_every_other_job_done(on_ray: Run) -> None:
    assert_the_others_are_done(on_ray, RAISED + DEADLY)


@pytest.mark.slow
@pytest.mark.parametrize("fault", RAISED + DEADLY, ids=lambda fault: fault.function)
def test_a_failure_on_ray_is_kept_and_named(on_ray: Run, fault: Fault) -> None:
    assert_kept_and_named(on_ray, fault)


@pytest.mark.slow
def test_only_the_guilty_are_blamed_for_what_ended_their_process(on_ray: Run) -> None:
    failures = phasegrid.open(str(on_ray.storage)).failures()
    guilty = {job_of(on_ray, fault) for fault in RAISED + DEADLY}
    assert set(failures["key"].dropna()) == guilty
    nobody = failures[failures["key"].isna()]
    assert nobody["exception"].str.contains("jobs of its pack, or none").all()


@pytest.mark.slow
def test_what_failed_on_ray_is_done_when_the_trouble_is_over(on_ray: Run, tmp_path: Path) -> None:
    assert_mended_by_running_again(on_ray, tmp_path)
