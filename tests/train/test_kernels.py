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
from torch.utils._python_dispatch import TorchDispatchMode
from train_support import make_data, make_trial

from phasegrid.fallbacks import collected
from phasegrid.jobs import Part
from phasegrid.models import compiled
from phasegrid.models.build import build_model
from phasegrid.models.compiled import kernels_of
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.fused import read_architecture
from phasegrid.models.norms import merges_of
from phasegrid.models.weights import parameters_vector
from phasegrid.train.loop import train_pack
from phasegrid.train.optimizers import new_slots, rates_at, step
from phasegrid.train.precision import tensor_float_32
from phasegrid.train.recipe import Recipe

CHILDREN = Path(__file__).resolve().parent.parent / "children"


def run_child(name: str, *args: str, **variables: str) -> None:
    pytest.importorskip("triton")
    known = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHILDREN.parent.parent)}
    command = [sys.executable, str(CHILDREN / name), *args]
    done = subprocess.run(
        command, env=known | variables, capture_output=True, text=True, timeout=600
    )
    said = done.stdout.splitlines()[-1:]
    assert (done.returncode, said) == (0, ["whole"]), f"{said}: {done.stderr[-2000:]}"


def test_the_kernel_of_the_optimizers_makes_the_updates_of_torch() -> None:
    run_child("optimizer_kernel.py", "--few", TRITON_INTERPRET="1")


@pytest.mark.slow
def test_the_kernel_of_the_optimizers_takes_vectors_of_every_length_and_every_rate() -> None:
    run_child("optimizer_kernel.py", TRITON_INTERPRET="1")


def test_the_kernels_of_batchnorm_give_the_outputs_and_gradients_of_torch() -> None:
    run_child("norm_kernel.py", "--few", TRITON_INTERPRET="1")


@pytest.mark.slow
def test_the_kernels_of_batchnorm_are_those_of_torch_in_every_shape_and_layout() -> None:
    run_child("norm_kernel.py", TRITON_INTERPRET="1")


@pytest.mark.slow
def test_the_kernel_of_weight_gradients_gives_those_of_torch() -> None:
    run_child("weight_gradient.py", TRITON_INTERPRET="1")


def test_every_batchnorm_of_a_resnet_takes_along_what_follows_it() -> None:
    module = build_model(Part("resnet18", 1, {"width": 2}), (3, 8, 8), 4, seed=0)
    blueprint = read_architecture(module)
    merges = merges_of(blueprint.graph, blueprint.modules)
    assert len(merges) == 20
    assert sum(merge.relu for merge in merges) == 17  # all but the shortcuts
    assert sum(merge.residual is not None for merge in merges) == 8
    assert len({node for merge in merges for node in merge.nodes}) == 20 + 17 + 8


def test_a_merged_network_keeps_its_kernels_in_the_layout_of_its_images() -> None:
    module = build_model(Part("resnet18", 1, {"width": 8}), (3, 8, 8), 4, seed=0)
    before = parameters_vector(module)
    network = FlatNetwork(
        module.train(), [module.state_dict()], "merged", read_architecture(module)
    )
    kernel = network.parameters["stage1.block0.conv1.weight"][0]
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network.rows()[0], before, rtol=0, atol=0)
    network.assign(2 * before)
    torch.testing.assert_close(network.rows()[0], 2 * before, rtol=0, atol=0)
    assert network.weights.count_nonzero() == before.count_nonzero()


class Casts(TorchDispatchMode):
    """Counts the tensors that are cast."""

    num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def test_a_merged_network_casts_its_weights_once_and_has_the_gradient_of_autocast() -> None:
    found, casts = {}, {}
    for strategy in ("fused", "merged"):
        module = build_model(Part("resnet18", 1, {"width": 8}), (3, 8, 8), 4, seed=0)
        network = FlatNetwork(
            module.train(),
            [module.state_dict()],
            strategy,  # type: ignore[arg-type]
            read_architecture(module),
        )
        inputs = torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        for _ in range(2):
            with Casts() as counted:
                with torch.autocast("cpu", torch.bfloat16):
                    losses = network.forward(inputs).logsumexp(2).flatten(1).float()
                network.differentiate(losses, torch.ones_like(losses))
        found[strategy], casts[strategy] = network.gradient(), counted.num
    # bfloat16 has 8 bits: both are that far from the gradient in float32
    assert float((found["merged"] - found["fused"]).norm() / found["fused"].norm()) < 0.05
    assert casts["fused"] > 40
    assert casts["merged"] < 8


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


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_a_merged_network_on_a_gpu_trains_as_one_of_separate_operations(
    width: int, precision: str
) -> None:
    module = build_model(Part("resnet18", 1, {"width": width}), (3, 8, 8), 4, seed=0)
    blueprint, state = read_architecture(module), module.state_dict()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 16, 3, 8, 8, generator=generator).cuda()
    found = []
    for strategy in ("fused", "merged", "merged"):
        fresh = build_model(Part("resnet18", 1, {"width": width}), (3, 8, 8), 4, seed=0).cuda()
        states = [{name: value.cuda() for name, value in state.items()}] * 2
        network = FlatNetwork(fresh.train(), states, strategy, blueprint)  # type: ignore[arg-type]
        cudnn = torch.backends.cudnn.flags(enabled=True, deterministic=True)
        with cudnn, tensor_float_32(False):
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
                losses = network.forward(inputs).square().sum((1, 2))
            network.differentiate(losses, torch.ones_like(losses))
        found.append((losses.detach(), network.gradient(), network.state(1)))
    (losses, gradient, after), theirs, again = found
    off = 1e-3 if precision == "fp32" else 0.1
    torch.testing.assert_close(theirs[0], losses, rtol=off, atol=off)
    assert float((theirs[1] - gradient).norm() / gradient.norm()) < 3 * off
    torch.testing.assert_close(theirs[2], after, rtol=off, atol=off)
    assert torch.equal(theirs[0], again[0])  # the forward pass adds nothing atomically


@pytest.mark.gpu
def test_merged_trainings_on_a_gpu_are_recorded_and_end_as_on_a_cpu() -> None:
    model = Part("resnet18", 1, {"width": 2})
    trials = [make_trial(seed, model=model, epochs=2, batch_size=16) for seed in range(3)]
    losses = []
    for device in ("cpu", "cuda"):
        with collected() as fallbacks:
            done = train_pack(
                trials, [make_data()] * 3, device=device, strategy="merged", stack_size=1
            )
        assert not fallbacks
        losses.append([result.history[0].train_loss for result in done])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)  # rounding, amplified for an epoch
