"""Triton kernels compute what torch's operations do, and compile for GPUs of every kind.

Children interpret them on the CPU, or compile them; tests marked gpu run them.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from phasegrid.fallbacks import collected
from phasegrid.models import compiled
from phasegrid.models.compiled import kernels_of
from phasegrid.train.optimizers import new_slots, rates_at, step
from phasegrid.train.recipe import Recipe

CHILDREN = Path(__file__).resolve().parent.parent / "children"


def run_child(name: str, **variables: str) -> None:
    pytest.importorskip("triton")
    known = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHILDREN.parent.parent)}
    command = [sys.executable, str(CHILDREN / name)]
    done = subprocess.run(
        command, env=known | variables, capture_output=True, text=True, timeout=600
    )
    said = done.stdout.splitlines()[-1:]
    assert (done.returncode, said) == (0, ["whole"]), f"{said}: {done.stderr[-2000:]}"


def test_the_kernel_of_the_optimizers_makes_the_updates_of_torch() -> None:
    run_child("optimizer_kernel.py", TRITON_INTERPRET="1")


@pytest.mark.slow
def test_every_kernel_compiles_for_every_generation_of_cards(tmp_path: Path) -> None:
    run_child("compiled_for_cards.py", TRITON_CACHE_DIR=str(tmp_path))


def test_a_cpu_is_not_asked_to_compile() -> None:
    with collected() as found:
        assert kernels_of("phasegrid.no_such_module", torch.device("cpu")) is None
    assert not found


def test_kernels_that_cannot_be_compiled_are_done_without_and_reported_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    class Broken:
        @staticmethod
        def try_out(device: torch.device) -> None:
            tried.append(device)
            raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(compiled, "import_module", lambda _: Broken)
    card = torch.device("cuda", 7)
    with collected() as found:
        assert kernels_of("phasegrid.broken", card) is None
        assert kernels_of("phasegrid.broken", card) is None
    (said,) = found.values()
    assert "phasegrid.broken" in said.what
    assert "C compiler" in said.error
    assert tried == [card]


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_an_update_on_a_gpu_is_that_of_a_cpu(optimizer: Any) -> None:
    recipe = Recipe(optimizer=optimizer, weight_decay=0.1)
    both = recipe.lr, recipe.weight_decay
    start = torch.randn(3 * 1024 + 64, generator=torch.Generator().manual_seed(0))
    ends = []
    for device in ("cpu", "cuda"):
        weights = start.to(device, copy=True)
        slots = new_slots(recipe, weights)
        for update in range(5):
            noise = torch.randn(len(start), generator=torch.Generator().manual_seed(update + 1))
            rates = rates_at(recipe, *both, 0.5, update)
            step(recipe, weights, noise.to(device), slots, *both, rates)
        ends.append(weights.cpu())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)
