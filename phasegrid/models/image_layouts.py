"""Choose the memory layout of a network's images: one rule for training, curves, simplexes, slices
and the Hessian.

Channels last is 1.04 to 1.4 times faster on a CPU for most convolutions, and faster on a GPU; on a
CPU, grouped convolutions pay only with it. It is not used where a library has a known error: on a
CPU without AVX-512 the weight gradient of an ungrouped convolution with a 1x1 kernel, a stride, and
2 to 7 input channels writes past its buffer if images lie channels last (torch 2.11 and 2.15,
float32), and the process dies of SIGABRT or SIGSEGV. ResNet18 of widths 1 to 7 has such
convolutions. A checking allocator found this in a search over 1 to 19 channels, kernels of 1 and 3,
strides 1 to 8, 1 to 5 groups; tests/train/test_image_layouts.py repeats it in child processes.

The rule looks only at the network, not at the kind of CPU, so that numbers do not depend on the
CPU. This costs nothing: an update of ResNet18 of widths 2 to 4 was 1.1 to 2.7 times faster if all
is contiguous than if only this convolution is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.fallbacks import fall_back
from phasegrid.models.network_state import copy_network, outputs_of
from phasegrid.seeding import kept_draws

UNSAFE_CHANNELS = range(2, 8)
PROBED = 2  # examples on which channels last is tried


@dataclass(frozen=True, slots=True)
class Layouts:
    """The memory layout of images for a network, `on_cpu` and on other devices."""

    on_cpu: torch.memory_format
    elsewhere: torch.memory_format

    def of(self, device: torch.device) -> torch.memory_format:
        """Return the layout on a device."""
        return self.on_cpu if device.type == "cpu" else self.elsewhere

    def lay_out(self, inputs: Tensor) -> Tensor:
        """Bring images (N, C, H, W) into the layout without changing numbers; other inputs stay as
        they are.
        """
        if inputs.dim() != 4:
            return inputs
        return inputs.contiguous(memory_format=self.of(inputs.device))


PLAIN = Layouts(torch.contiguous_format, torch.contiguous_format)


def layouts_of(network: nn.Module, members: int = 1) -> Layouts:
    """Return the image layouts for a network, or for a stack of `members`, whose convolutions are
    grouped.

    Without convolutions there is nothing to gain.
    """
    if not any(_convolves(layer) for layer in network.modules()):
        return PLAIN
    unsafe = members == 1 and any(_is_unsafe(layer) for layer in network.modules())
    on_cpu = torch.contiguous_format if unsafe else torch.channels_last
    return Layouts(on_cpu, torch.channels_last)


def working_layouts(network: nn.Module, inputs: Tensor) -> Layouts:
    """Return `layouts_of` a network, or `PLAIN` if its code cannot read `inputs` (N, C, H, W) in
    that layout.

    Code with ``x.view(len(x), -1)`` cannot. A copy in eval mode is tried on a few examples; the
    network and the random state do not change.
    """
    layouts = layouts_of(network)
    if inputs.dim() != 4 or layouts.of(inputs.device) == torch.contiguous_format:
        return layouts
    try:
        with torch.no_grad(), kept_draws(inputs.device):
            outputs_of(copy_network(network).eval(), layouts.lay_out(inputs[:PROBED]))
    except torch.OutOfMemoryError:  # says nothing about the layout
        raise
    except Exception as error:  # of any kind; an error with another cause comes again later
        fall_back(f"images for {type(network).__name__} are not stored channels last", error)
        return PLAIN
    return layouts


def layer_out(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return a function that brings images into the layout that works for `network`; the first
    batch decides.
    """
    layouts: Layouts | None = None

    def lay_out(inputs: Tensor) -> Tensor:
        nonlocal layouts
        if layouts is None:
            layouts = working_layouts(network, inputs)
        return layouts.lay_out(inputs)

    return lay_out


def _convolves(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) or bool(_kernels(layer))


def _is_unsafe(layer: nn.Module) -> bool:
    """Say whether a layer is, or may be, a convolution that must not have its input channels last
    on a CPU.

    A kernel in a layer's own code may have any stride.
    """
    if isinstance(layer, nn.Conv2d):
        strides = layer.kernel_size == (1, 1) and layer.stride != (1, 1)
        return strides and layer.groups == 1 and layer.in_channels in UNSAFE_CHANNELS
    return any(
        kernel.shape[2:] == (1, 1) and kernel.shape[1] in UNSAFE_CHANNELS
        for kernel in _kernels(layer)
    )


def _kernels(layer: nn.Module) -> list[Tensor]:
    """Return the parameters of a layer of unknown kind that look like convolution kernels."""
    return [p for p in layer.parameters(recurse=False) if p.dim() == 4]
