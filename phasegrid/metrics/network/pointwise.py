"""Convolutions that add and rectify what they compute before it leaves the cache.

relu(W * x + b) and relu(W * x + b + y) are one kernel each of oneDNN, on a CPU in float32; y is
overwritten where nothing needs it afterwards. For gradients, other devices and other precisions the
layers stay apart. The sums are those of the layers, in the same precision.
"""

import operator
from collections.abc import Mapping
from functools import cache
from typing import Protocol, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import relu

RELUS = (relu, torch.relu)
SUMS = (operator.add, operator.iadd, torch.add)


class Kept(Protocol):
    """A convolution whose `weight` and `bias` are those of a convolution and what follows it."""

    weight: Tensor
    bias: Tensor

    @property
    def convolution(self) -> nn.Module:
        """The convolution itself."""


class Fused(nn.Module):
    """A plain two-dimensional convolution and the ReLU after it, and a sum between them if it gets
    two inputs, of which the second is overwritten.
    """

    def __init__(self, kept: nn.Module) -> None:
        super().__init__()
        self.kept = kept
        conv = cast(nn.Conv2d, cast(Kept, kept).convolution)
        padding = list(cast(tuple[int, ...], conv.padding))
        self._settings = (padding, list(conv.stride), list(conv.dilation), conv.groups)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return relu(conv(x)), or relu(conv(x) + y)."""
        kept, operations = cast(Kept, self.kept), torch.ops.mkldnn
        weights = (kept.weight, kept.bias, *self._settings)
        if y is None:
            z: Tensor = operations._convolution_pointwise(x, *weights, "relu", [], "")
        elif list(y.shape) == self._size(x):
            z = operations._convolution_pointwise_.binary(
                y, x, *weights, "add", 1.0, "relu", [], None
            )
        else:  # broadcast
            z = relu(self.kept(x) + y)
        return z

    def _size(self, x: Tensor) -> list[int]:
        padding, stride, dilation, _ = self._settings
        weight = cast(Kept, self.kept).weight
        axes = zip(x.shape[2:], weight.shape[2:], padding, stride, dilation, strict=True)
        return [
            len(x),
            len(weight),
            *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, s, d in axes),
        ]


def fuse_pointwise(network: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """Fuse the convolutions of `network` that are of this `kind` (`Kept`) with the sums and ReLUs
    after them, in place, if it is a traced network in float32 on a CPU; return it.
    """
    if not isinstance(network, fx.GraphModule) or not _has_kernels(network):
        return network
    for node in list(network.graph.nodes):
        layers = dict(network.named_modules())
        if not _is_relu(node, layers):
            continue
        before = node.args[0]
        if _is_kept(before, layers, kind):
            _replace(network, node, before, layers, (before.args[0],))
        elif isinstance(before, fx.Node) and before.target in SUMS and len(before.users) == 1:
            _fuse_sum(network, node, before, layers, kind)
    network.graph.lint()
    network.recompile()
    return network


def _fuse_sum(
    network: fx.GraphModule,
    node: fx.Node,
    total: fx.Node,
    layers: Mapping[str, nn.Module],
    kind: type[nn.Module],
) -> None:
    """Fuse a ReLU with the sum before it, if one term is a convolution and the other is an image of
    the same size that nothing needs afterwards.
    """
    if len(total.args) != 2 or total.kwargs:
        return
    for conv, other in (total.args, total.args[::-1]):
        if _is_kept(conv, layers, kind) and _is_free(other, total, layers, kind):
            assert isinstance(conv, fx.Node)
            _replace(network, node, conv, layers, (conv.args[0], other))
            network.graph.erase_node(total)
            network.graph.erase_node(conv)
            return


def _replace(
    network: fx.GraphModule,
    node: fx.Node,
    conv: fx.Node,
    layers: Mapping[str, nn.Module],
    inputs: tuple[fx.node.Argument, ...],
) -> None:
    """Put a fused convolution at the place of a ReLU."""
    name = str(conv.target)
    network.set_submodule(name, Fused(layers[name]))
    with network.graph.inserting_before(node):
        fused = network.graph.call_module(name, inputs)
    node.replace_all_uses_with(fused)
    network.graph.erase_node(node)
    if len(inputs) == 1:
        network.graph.erase_node(conv)


def _has_kernels(network: nn.Module) -> bool:
    tensors = list(network.parameters())
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    return plain and _kernels_are_right()


@cache
def _kernels_are_right() -> bool:
    """Say whether this torch has both kernels and they compute what the layers do: they are not
    part of its public interface.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    kept = _Probe()
    x = torch.linspace(-1, 1, 50).view(1, 2, 5, 5)
    y = torch.linspace(1, -1, 27).view(1, 3, 3, 3)
    with torch.no_grad():
        plain = kept.convolution(x)
        try:
            found = Fused(kept)(x), Fused(kept)(x, y.clone())
        except (RuntimeError, AttributeError, TypeError):  # no such operation, or other arguments
            return False
    return all(map(torch.allclose, found, (relu(plain), relu(plain + y))))


class _Probe(nn.Module):
    """A small convolution without random numbers."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):  # its usual weights would draw random numbers
            self.convolution = nn.Conv2d(2, 3, 3)
        weight, bias = torch.linspace(-1, 1, 54).view(3, 2, 3, 3), torch.full((3,), 0.1)
        self.convolution.weight, self.convolution.bias = map(nn.Parameter, (weight, bias))
        self.weight, self.bias = self.convolution.weight, self.convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the convolution."""
        y: Tensor = self.convolution(x)
        return y


def _is_relu(node: fx.Node, layers: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(layers[str(node.target)]) is nn.ReLU
    return node.op == "call_function" and node.target in RELUS


def _is_kept(node: object, layers: Mapping[str, nn.Module], kind: type[nn.Module]) -> bool:
    """Say whether a node is a plain convolution in two dimensions that only one other needs."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.users) != 1:
        return False
    layer = layers[str(node.target)]
    if not isinstance(layer, kind):
        return False
    conv = cast(Kept, layer).convolution
    plain = isinstance(conv, nn.Conv2d) and conv.padding_mode == "zeros"
    return plain and not isinstance(conv.padding, str)


def _is_free(
    node: object, at: fx.Node, layers: Mapping[str, nn.Module], kind: type[nn.Module]
) -> bool:
    """Say whether a node is what a convolution made, and nothing but `at` needs it from there
    on.
    """
    order = {one: place for place, one in enumerate(at.graph.nodes)}
    while isinstance(node, fx.Node) and node.op == "call_module":
        if any(order[user] > order[at] for user in node.users):
            return False
        layer = layers[str(node.target)]
        if not isinstance(layer, nn.Identity):
            return isinstance(layer, (kind, Fused))
        node = node.args[0]
    return False
