"""Laws of memory layouts: one rule, and no convolution that it lets through writes past its
buffers.

A library's bug of that kind ends the process, so convolutions run in child processes, under glibc's
checking allocator where there is one.
"""

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from phasegrid.jobs import Part
from phasegrid.metrics.network.points import live_network
from phasegrid.models.build import build_model
from phasegrid.models.image_layouts import PLAIN, layouts_of, working_layouts
from phasegrid.train.stack import MemberState, Stack

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CHILDREN = Path(__file__).resolve().parent.parent / "children"
REPOSITORY = CHILDREN.parent.parent
CHECKING = "libc_malloc_debug.so.0"


def run_child(name: str, *args: int, isa: str | None = None) -> None:
    """Run a program of tests/children, with a set of instructions that CPUs of other kinds have."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    if ctypes.util.find_library("c_malloc_debug"):
        variables |= {"LD_PRELOAD": CHECKING, "MALLOC_CHECK_": "3"}
    if isa:
        variables["ONEDNN_MAX_CPU_ISA"] = isa
    command = [sys.executable, str(CHILDREN / name), *map(str, args)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600)
    said = done.stdout.splitlines()[-1:]
    assert (done.returncode, said) == (0, ["whole"]), f"{said}: {done.stderr[-2000:]}"


def test_convolutions_of_few_channels_stay_within_their_buffers() -> None:
    run_child("convolutions.py", 1, isa="AVX2")


@pytest.mark.slow
@pytest.mark.parametrize("isa", [None, "AVX2", "AVX", "SSE41"])
def test_convolutions_stay_within_their_buffers_on_cpus_of_every_kind(isa: str | None) -> None:
    run_child("convolutions.py", 1, 2, 3, 5, isa=isa)


def test_a_narrow_resnet_trains_and_is_measured() -> None:
    run_child("narrow_resnet.py", 2)


@pytest.mark.slow
@pytest.mark.parametrize("isa", [None, "AVX2"])
def test_resnets_of_every_narrow_width_train_and_are_measured(isa: str | None) -> None:
    run_child("narrow_resnet.py", 1, 2, 3, 4, 5, 6, 7, 8, isa=isa)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 7])
def test_a_network_with_an_unsafe_convolution_stays_contiguous_on_a_cpu(width: int) -> None:
    net = build_model(Part("resnet18", 1, {"width": width}), (3, 8, 8), 10, seed=0)
    assert layouts_of(net).of(CPU) == torch.contiguous_format
    assert layouts_of(net).of(GPU) == torch.channels_last
    assert layouts_of(net, members=2).of(CPU) == torch.channels_last  # grouped ones are safe


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3, stride=2),
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(1, 8, 1, stride=2),
        nn.Conv2d(8, 8, 1, stride=2),
        nn.Conv2d(4, 8, 1, stride=2, groups=2),
    ],
)
def test_other_convolutions_take_images_channels_last(layer: nn.Module) -> None:
    assert layouts_of(layer).of(CPU) == layouts_of(layer).of(GPU) == torch.channels_last


class OwnKernel(nn.Module):
    """A convolution by hand, whose stride nobody can see."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return nn.functional.conv2d(x, self.kernel, stride=2)


def test_kernels_that_code_uses_by_itself_count_as_unsafe_where_they_may_be() -> None:
    assert layouts_of(OwnKernel(4)).of(CPU) == torch.contiguous_format
    assert layouts_of(OwnKernel(9)).of(CPU) == torch.channels_last


def test_networks_without_convolutions_take_images_as_they_are() -> None:
    assert layouts_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))) == PLAIN
    images = torch.zeros(2, 3, 4, 4)
    assert PLAIN.lay_out(images) is images


class Viewing(nn.Module):
    """A network whose code wants its images contiguous, as that of many tutorials does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 8, 3, padding=1), nn.Dropout(0.5)
        self.linear = nn.Linear(8 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, 4, 4) to (N, 2)."""
        y: Tensor = self.linear(self.drop(self.conv(x)).view(-1, 8 * 16))
        return y


def test_networks_that_view_their_images_flat_train_and_are_joined() -> None:
    net, images = Viewing(), torch.randn(5, 3, 4, 4)
    assert layouts_of(net).of(CPU) == torch.channels_last
    assert working_layouts(net, images) == PLAIN
    stack = Stack(net, [MemberState(dict(net.state_dict()))], "loop")
    assert stack.network.forward(images[None]).shape == (1, 5, 2)
    assert live_network(net).module(images).shape == (5, 2)


def test_trying_a_layout_draws_nothing_and_changes_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(3, 9, 3), nn.BatchNorm2d(9), nn.Dropout(0.5))
    before, random = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    layouts = working_layouts(net, torch.randn(4, 3, 5, 5, generator=torch.Generator()))
    assert layouts.of(CPU) == torch.channels_last
    assert torch.equal(torch.get_rng_state(), random)
    assert net.training
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)
