"""Laws of sweeps whose trainings run in lanes: the store gets what trainings alone give it.

A stand-in says that there is a GPU; lanes and graphs are stood in for on the CPU.
"""

import os
import signal
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pytest
import torch
from lane_support import Numbered, give_recorders
from rich.console import Console
from torch import Tensor

import phasegrid.train.lanes
from phasegrid import load_sweep
from phasegrid.plan.devices import DEVICES
from phasegrid.run import places
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.store.store import Store
from phasegrid.train.cuda_graphs import Recorder, Work
from phasegrid.train.lanes import Lane
from phasegrid.train.updates import Updates
from tests.faults.comparing import assert_same_numbers, keys_of
from tests.tape import record_on_tape

SWEEP = """\
schema: 1
name: many-cells
dataset: {name: digits, fraction: 0.05}
model: {name: mlp, depth: 1}
train: {epochs: 3, stop: null, keep: last, momentum: 0.9}
load: {param: model.width, values: [2, 3, 5]}
temperature: {param: train.batch_size, values: [8, 16]}
seeds: 2
metrics: [accuracy, distance]
"""


def do(folder: Path, name: str) -> int:
    (folder / "cells.yaml").write_text(SWEEP)
    sweep = load_sweep(folder / "cells.yaml", ["run.reproducible=true", "run.pack_size=12"])
    store = Store.open(str(folder / name), create=True)
    where = RunTarget(serial=True, device="cpu", strategy="loop")
    return run_sweep(sweep, store, where, Console(quiet=True), quiet=True, limit=None).exit_code


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Store what the same updates give without lanes and graphs."""

    def launch(_self: Recorder, _key: Hashable, work: Work, *fixed: Tensor) -> Tensor:
        return work(*fixed)

    with monkeypatch.context() as patch:
        give_recorders(patch, record_on_tape)
        patch.setattr(Recorder, "repeat", launch)
        assert do(tmp_path, "alone") == 0
    return tmp_path / "alone"


@pytest.fixture
def lanes(alone: Path, monkeypatch: pytest.MonkeyPatch) -> list[Numbered]:
    """Let the device have lanes and graphs from now on; return the lanes as they are made."""
    del alone
    made: list[Numbered] = []

    def new_lane(_device: torch.device) -> Lane:
        made.append(Numbered())
        return made[-1]

    monkeypatch.setattr(places, "_own_gpu", lambda _where: DEVICES["h200"])
    monkeypatch.setattr(phasegrid.train.lanes, "new_lane", new_lane)
    give_recorders(monkeypatch, record_on_tape)
    return made


def test_a_sweep_in_lanes_stores_what_trainings_alone_store(
    tmp_path: Path, alone: Path, lanes: list[Numbered]
) -> None:
    assert do(tmp_path, "store") == 0
    assert len(lanes) == 12
    assert_same_numbers(tmp_path / "store", alone)


def test_a_sweep_that_is_stopped_in_lanes_goes_on_to_the_same_numbers(
    tmp_path: Path, alone: Path, lanes: list[Numbered], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched, run = [0], Updates.run

    def stopped(self: Updates, *args: Any) -> None:
        launched[0] += 1
        if launched[0] == 100:
            os.kill(os.getpid(), signal.SIGTERM)
        run(self, *args)

    monkeypatch.setattr(Updates, "run", stopped)
    assert do(tmp_path, "store") != 0
    snapshots = list((tmp_path / "store").rglob("*snapshot*"))
    assert snapshots
    assert len(keys_of(tmp_path / "store", "trials")) < 12
    assert do(tmp_path, "store") == 0
    assert launched[0] == 6 * 3 * (9 + 5), "no update is made twice"
    assert lanes
    assert_same_numbers(tmp_path / "store", alone)


@pytest.mark.usefixtures("lanes")
def test_of_many_in_lanes_only_the_one_that_fails_is_blamed(
    tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, culprits = Updates.run, [0]

    def fails(self: Updates, *args: Any) -> None:
        is_wide = self.network.module[1].out_features == 5  # type: ignore[index]
        if is_wide and self.recipe.batch_size == 8:
            culprits[0] += 1
            raise RuntimeError("cannot be trained")
        run(self, *args)

    monkeypatch.setattr(Updates, "run", fails)
    assert do(tmp_path, "store") == 1
    assert culprits[0] > 1
    store = Store.open(str(tmp_path / "store"))
    failed = [r["key"] for r in store.read_table("failures").to_pylist() if r["kind"] == "app"]
    assert len(failed) == 2, "the two seeds of one cell"
    assert keys_of(tmp_path / "store", "trials") == keys_of(alone, "trials") - set(failed)
