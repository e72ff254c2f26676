"""Laws of ``run: {reproducible: true}``: a number depends on nothing but what its key says."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from phasegrid import load_sweep
from phasegrid.errors import SweepError
from phasegrid.plan.contents import plan_hash
from phasegrid.plan.plan import make_plan
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.store.store import Store
from phasegrid.train.precision import deterministic_kernels, distinct_places
from tests.faults.comparing import assert_same_numbers

SWEEP = """\
schema: 1
name: alone
dataset: {name: digits, fraction: 0.1}
model: {name: mlp, depth: 2, width: 4}
train: {batch_size: 8, lr: 0.1, epochs: 3, stop: null}
load: {param: model.width, values: [4, 8]}
temperature: {param: train.lr, values: [0.05, 0.1]}
seeds: 3
metrics: [accuracy, distance, cka: {examples: 32}, connectivity: {epochs: 1, pairs: all, points: 3}]
run: {reproducible: true}
"""


def do(tmp_path: Path, name: str, *overrides: str, strategy: str = "auto") -> Path:
    (tmp_path / "alone.yaml").write_text(SWEEP)
    sweep = load_sweep(tmp_path / "alone.yaml", overrides)
    store = Store.open(str(tmp_path / name), create=True)
    where = RunTarget(serial=True, device="cpu", strategy=strategy)  # type: ignore[arg-type]
    result = run_sweep(sweep, store, where, Console(quiet=True), quiet=True, limit=None)
    assert result.exit_code == 0
    return tmp_path / name


def test_one_seed_after_another_equals_all_at_once_bit_for_bit(tmp_path: Path) -> None:
    at_once = do(tmp_path, "at-once")
    for seed in (2, 0, 1):
        do(tmp_path, "apart", f"seeds=[{seed}]", "metrics=[accuracy]")
    apart = do(tmp_path, "apart")
    assert_same_numbers(apart, at_once)
    rows = Store.open(str(apart)).read_table("trials").to_pandas()
    assert rows["reproducible"].all()
    assert set(rows["strategy"]) == {"loop"}
    assert set(rows["pack_size"]) == {1}


def test_rows_say_that_they_were_done_together(tmp_path: Path) -> None:
    storage = do(tmp_path, "together", "run.reproducible=false")
    for table in ("trials", "metrics/cka"):
        assert not Store.open(str(storage)).read_table(table).to_pandas()["reproducible"].any()


def test_no_key_depends_on_it(tmp_path: Path) -> None:
    (tmp_path / "alone.yaml").write_text(SWEEP)
    hashes = {
        plan_hash(make_plan(load_sweep(tmp_path / "alone.yaml", (f"run.reproducible={value}",))))
        for value in ("true", "false")
    }
    assert len(hashes) == 1


@pytest.mark.parametrize("strategy", ["fused", "vmap"])
def test_networks_that_are_to_depend_on_no_other_cannot_be_stacked(
    tmp_path: Path, strategy: str
) -> None:
    with pytest.raises(SweepError, match=f"strategy {strategy} trains several networks as one"):
        do(tmp_path, "never", strategy=strategy)


@pytest.fixture
def settings_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def switches() -> tuple[bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark


@pytest.mark.usefixtures("settings_kept")
def test_a_gpu_computes_with_kernels_that_repeat_themselves_and_only_while_asked() -> None:
    before = switches()
    assert before[:2] == (False, False)
    with deterministic_kernels(torch.device("cuda"), wanted=True):
        assert switches() == (True, True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert switches() == before
    for device, wanted in (("cuda", False), ("cpu", True)):
        with deterministic_kernels(torch.device(device), wanted):
            assert switches() == before


@pytest.mark.usefixtures("settings_kept")
def test_writes_to_distinct_places_are_not_sorted_while_kernels_are_deterministic() -> None:
    with deterministic_kernels(torch.device("cuda"), wanted=True):
        with distinct_places():
            assert switches() == (False, True, False)
        assert switches() == (True, True, False)
