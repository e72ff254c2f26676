"""Run every convolution that networks of few channels use, in the layouts that are let through;
dies if a library writes past its buffers.

Run in a process of its own, better with a checking allocator. The last line on stdout is the
convolution that was tried last.
"""

import sys

import torch
from torch import Tensor, nn

from phasegrid.models.image_layouts import layouts_of

CHANNELS = range(1, 17)
SHAPES = ((16, 8), (9, 5))  # pixels, examples


def gradients(layer: nn.Conv2d, x: Tensor, layout: torch.memory_format) -> list[Tensor]:
    """Return output, gradients, and their derivatives along themselves."""
    x = x.contiguous(memory_format=layout).requires_grad_()
    wanted = (x, layer.weight)
    y = layer(x)
    first = torch.autograd.grad((y**3).mean(), wanted, create_graph=True)
    along = sum((g * g.detach()).sum() for g in first)
    return [y.detach(), *(g.detach() for g in first), *torch.autograd.grad(along, wanted)]


def check(channels: int, kernel: int, stride: int, groups: int) -> None:
    """Try a convolution in each layout that the rule lets through, against float64."""
    torch.manual_seed(0)
    layer = nn.Conv2d(
        groups * channels, 2 * groups * channels, kernel, stride, kernel // 2, groups=groups
    )
    best = layouts_of(layer).of(torch.device("cpu"))
    for pixels, examples in SHAPES:
        x = torch.randn(examples, groups * channels, pixels, pixels)
        layer.double()
        expected = gradients(layer, x.double(), torch.contiguous_format)
        layer.float()
        for layout in {best, torch.contiguous_format}:
            print(f"{layer} {layout} {tuple(x.shape)}", flush=True)
            found = gradients(layer, x, layout)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(
                    a.double(), b, rtol=1e-3, atol=1e-4 * float(b.abs().max())
                )
    del layer, x, expected, found
    [torch.empty(size) for size in range(1, 100)]  # an allocator that checks does so here


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number in map(int, sys.argv[1:]):
        for kernel in (1, 3):
            for stride in (1, 2):
                for channels in CHANNELS:
                    check(channels, kernel, stride, number)
    print("whole")
