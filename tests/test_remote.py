"""Submitting to a real Ray head on loopback, from another process, as a user does."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import phasegrid
from phasegrid import load_sweep
from tests.ray_head import Head, client_environment, ray_head

SWEEP = """\
schema: 1
extends: base.yaml
name: small
load: {param: model.width, values: [2, 4]}
metrics: [accuracy, '../lab/size.py:SIZE']
"""
BASE = """\
schema: 1
name: base
dataset: {name: digits, fraction: 0.1}
model: {name: mlp, depth: 1}
train: {batch_size: 32, epochs: 2, stop: null}
seeds: 1
"""
PLUGIN = '''\
"""A metric that cannot do the widest model it may be shown."""
import os
from dataclasses import dataclass
from phasegrid.declare import Column, Metric

@dataclass(frozen=True)
class Args:
    most: int = 10_000

def compute(models, data, rng, most):
    size = sum(p.numel() for p in models[0].parameters())
    if size > most:
        raise RuntimeError("too wide for me")
    return {"size": float(size)}

SIZE = Metric(over="trial", args=Args, columns=(Column("size", "float64", "", "parameters"),), compute=compute)
'''
GATED = """\
schema: 1
name: gated
dataset: {name: digits, fraction: 0.2}
model: {name: mlp, depth: 1}
train: {batch_size: 32, epochs: 5, stop: null}
load: {param: model.width, values: [2, 4, 8, 16]}
temperature: {param: train.lr, values: [0.01, 0.05, 0.1]}
seeds: 2
metrics: [accuracy, {'gate.py:GATE': {path: "PATH"}}]
"""
GATE = '''\
"""A metric that waits until a file is there: until then no worker gets past its first measurements."""
import time
from dataclasses import dataclass
from pathlib import Path
from phasegrid.declare import Column, Metric

@dataclass(frozen=True)
class Args:
    path: str = ""

def compute(models, data, rng, path):
    for _ in range(6000):
        if Path(path).exists():
            return {"passed": 1.0}
        time.sleep(0.1)
    raise RuntimeError("nobody opened the gate")

GATE = Metric(over="trial", args=Args, columns=(Column("passed", "float64", "", "always 1"),), compute=compute)
'''
NUM_GATED = 24
REPOSITORY = Path(phasegrid.__file__).parent.parent
TOKEN = "a-token-that-nobody-may-see-0123456789"


def phasegrid_at(
    folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "phasegrid", *arguments],
        cwd=folder,
        env=client_environment(**{"PYTHONPATH": str(REPOSITORY), **environment}),
        capture_output=True,
        text=True,
        timeout=600,
    )


def write_small(folder: Path) -> Path:
    for name, text in (
        ("sweeps/small.yaml", SWEEP),
        ("sweeps/base.yaml", BASE),
        ("lab/size.py", PLUGIN),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "sweeps/small.yaml"


def write_gated(folder: Path) -> tuple[Path, Path]:
    """Write a sweep that cannot end, nor get far, before a file exists; return the sweep and that
    file.
    """
    sweep, gate = folder / "gated.yaml", folder / "open"
    sweep.write_text(GATED.replace("PATH", str(gate)))
    (folder / "gate.py").write_text(GATE)
    return sweep, gate


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head({}) as found:
        yield found


def state(folder: Path, submission: str, *more: str) -> tuple[str, str]:
    """Return what ``status`` says of a submission: the state, and the same in words."""
    done = phasegrid_at(folder, "status", submission, "--storage", "store", "--json", *more)
    assert done.returncode == 0, done.stderr
    (sweep,) = json.loads(done.stdout)
    (record,) = sweep["submissions"]
    return record["state"], record["says"]


def wait_for(what: str, path: Path, pattern: str, count: int) -> None:
    """Wait until a running job has written so many files."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        if len(list(path.glob(pattern))) >= count:
            return
        time.sleep(0.05)
    pytest.fail(f"waiting for {what}: {path} has not got {count} files {pattern}")


def test_a_submitted_sweep_is_stored_and_its_exit_code_comes_back(
    tmp_path: Path, head: Head
) -> None:
    sweep = write_small(tmp_path)
    done = phasegrid_at(
        tmp_path, "submit", str(sweep), "--address", head.address, "--storage", "store", "--shared-storage", "--wait"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    submission = done.stdout.strip()
    assert submission.startswith("pg-small-")
    assert "bundle: 5 files, " in done.stderr
    assert "6 of 6 jobs stored" in done.stderr
    results = phasegrid.open(str(tmp_path / "store"))
    assert len(results.trials()) == 2
    measured = results.metric("size.py:SIZE")  # by workers, from another folder
    assert list(measured["code_digest"]) == [load_sweep(sweep).code[0].code.digest] * 2
    found, says = state(tmp_path, submission)
    assert found == "ended"
    assert "exit code 0" in says
    kept = phasegrid_at(tmp_path, "logs", submission, "--storage", "store")
    assert "6 of 6 jobs stored" in kept.stdout
    assert "6 of 6 jobs stored" in (tmp_path / f"store/logs/{submission}.txt").read_text()


@pytest.mark.slow
def test_failed_jobs_give_exit_code_one_and_their_traceback_by_cell(
    tmp_path: Path, head: Head
) -> None:
    sweep = write_small(tmp_path)
    sweep.write_text(SWEEP.replace("'../lab/size.py:SIZE'", "{'../lab/size.py:SIZE': {most: 200}}"))
    storage = str(tmp_path / "store")
    submit = ("submit", str(sweep), "--address", head.address, "--storage", storage)
    waited = phasegrid_at(tmp_path, *submit, "--wait")
    assert waited.returncode == 1, waited.stderr
    submission = waited.stdout.strip()
    assert "exit code 1" in state(tmp_path, submission)[1]
    failed = phasegrid_at(
        tmp_path, "logs", "--cell", "1", "--sweep", "small", "--storage", "store"
    ).stdout
    assert "RuntimeError: too wide for me" in failed
    assert 'size.py", line' in failed
    assert (
        "nothing failed in cell 0"
        in phasegrid_at(tmp_path, "logs", "--cell", "0", "--storage", "store").stdout
    )
    followed = phasegrid_at(tmp_path, "logs", submission, "-f", "--address", head.address)
    assert "1 failed" in followed.stdout
    listed = phasegrid_at(tmp_path, "list", "--storage", "store", "--address", head.address)
    assert f"{submission}: ended" in listed.stdout


@pytest.mark.slow
def test_checked_out_code_goes_along_and_is_what_runs(tmp_path: Path, head: Head) -> None:
    sweep, checkout = write_small(tmp_path), tmp_path / "checkout"
    for package in ("phasegrid", "analysis"):
        shutil.copytree(
            REPOSITORY / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    me = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for command in (["init", "-q"], ["add", "."], [*me, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-C", str(checkout), *command], check=True)
    done = phasegrid_at(
        tmp_path, "submit", str(sweep), "--address", head.address, "--storage", str(tmp_path / "store"),
        "--with-code", "--wait", "--name", "with code", PYTHONPATH=str(checkout),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pg-with-code-")
    trials = phasegrid.open(str(tmp_path / "store")).trials()
    assert len(trials) == 2
    head_of = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    commit = subprocess.run(head_of, capture_output=True, text=True, check=True).stdout.strip()
    assert trials["git_commit"].tolist() == [commit] * 2
    assert trials["git_dirty"].tolist() == [False] * 2


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--now",)], ids=["gracefully", "now"])
def test_a_stopped_run_says_143_and_goes_on_when_submitted_again(
    tmp_path: Path, head: Head, more: tuple[str, ...]
) -> None:
    sweep, gate = write_gated(tmp_path)
    where = ("--address", head.address, "--storage", "store")
    submit = ("submit", str(sweep), *where, "--shared-storage")
    first = phasegrid_at(tmp_path, *submit).stdout.strip()
    wait_for("trials", tmp_path / "store/trials", "*/*.parquet", 2)
    asked = phasegrid_at(tmp_path, "stop", first, *where, *more)
    assert asked.returncode == 0, asked.stderr
    if not more:
        gate.touch()  # so that what runs can be finished; nothing else is started any more
    followed = phasegrid_at(tmp_path, "logs", first, "-f", "--storage", "store")
    assert "stopped (SIGTERM): what is finished is stored" in followed.stdout
    assert "exit code 143" in state(tmp_path, first)[1]
    measured = list((tmp_path / "store/metrics/gate.py%3AGATE").glob("*/*.parquet"))
    assert bool(measured) == (not more)
    gate.touch()
    again = phasegrid_at(tmp_path, *submit, "--wait")
    assert again.returncode == 0, again.stderr
    assert " 0 stored" not in again.stderr


@pytest.mark.slow
def test_a_lost_head_loses_only_what_was_running(tmp_path: Path) -> None:
    sweep, gate = write_gated(tmp_path)
    submit = ("submit", str(sweep), "--storage", "store", "--shared-storage", "--address")
    with ray_head({}) as first_head:
        first = phasegrid_at(tmp_path, *submit, first_head.address).stdout.strip()
        assert state(tmp_path, first)[0] in ("pending", "running")
        wait_for("trials", tmp_path / "store/trials", "*/*.parquet", 2)
        assert state(tmp_path, first, "--address", first_head.address)[0] == "running"
        first_head.kill()
        gone = phasegrid_at(tmp_path, "status", first, "--storage", "store", "--address", first_head.address)  # fmt: skip
        assert gone.returncode == 0, gone.stderr
        assert "nothing answers there" in gone.stderr
        assert "running when last seen" in gone.stdout  # by the store alone, for less than a minute
    before = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("trials/*/*.parquet")
    }
    assert 2 <= len(before) < NUM_GATED
    gate.touch()
    with ray_head({}) as other_head:
        assert state(tmp_path, first, "--address", other_head.address)[0] == "lost"
        second = phasegrid_at(tmp_path, *submit, other_head.address, "--wait")
        assert second.returncode == 0, second.stderr
        assert " 0 stored" not in second.stderr
        assert state(tmp_path, second.stdout.strip())[0] == "ended"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert phasegrid_at(tmp_path, "verify", "gated", "--storage", "store").returncode == 0
    for table in ("trials", "metrics/accuracy", "metrics/gate.py%3AGATE"):
        keys = pd.read_parquet(tmp_path / "store" / table)["key"]
        assert keys.is_unique
        assert len(keys) == NUM_GATED


@pytest.mark.slow
def test_a_token_opens_the_cluster_and_is_seen_nowhere(tmp_path: Path) -> None:
    sweep, secret = write_small(tmp_path), tmp_path / "secret"
    secret.write_text(TOKEN)
    submit = ("submit", str(sweep), "--storage", str(tmp_path / "store"), "--wait", "--address")
    with ray_head({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}) as guarded:
        without = phasegrid_at(tmp_path, *submit, guarded.address, HOME=str(tmp_path))
        wrong = phasegrid_at(
            tmp_path, *submit, guarded.address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="x" * 40
        )
        for refused in (without, wrong):
            assert refused.returncode == 4
            assert "RAY_AUTH_MODE=token" in refused.stderr
            assert "RAY_AUTH_TOKEN_PATH" in refused.stderr
            assert "Traceback" not in refused.stderr
        done = phasegrid_at(
            tmp_path, *submit, guarded.address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(secret)
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = [text for r in (without, wrong, done) for text in (r.stdout, r.stderr)]
        stored = [p.read_bytes() for p in (tmp_path / "store").rglob("*") if p.is_file()]
        assert len(stored) > 5
        assert not any(TOKEN in text for text in said)
        assert not any(TOKEN.encode() in data for data in stored)


def test_nothing_is_sent_for_a_sweep_with_mistakes(tmp_path: Path) -> None:
    sweep = write_small(tmp_path)
    sweep.write_text(SWEEP + "sedes: 3\ntrian: {}\n")
    done = phasegrid_at(
        tmp_path, "submit", str(sweep), "--address", "http://127.0.0.2:9", "--storage", "/s"
    )
    assert done.returncode == 2
    assert "did you mean 'seeds'" in done.stderr
    assert "did you mean 'train'" in done.stderr
    assert not os.path.exists("/s")
