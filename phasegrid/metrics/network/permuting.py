"""Find which channels of a network can change places without changing its function.

The hidden channels of a layer have no order: if they change places, and everything that reads them
changes places too, the network computes the same (Hecht-Nielsen 1990). A *group* is the set of
channels that must move together, as all layers of a residual stream do. Groups are read from the
forward pass, by following the channels from operation to operation through the traced graph. The
channels of the inputs and of the outputs stay in place.

Letters: N examples, C channels. The channels of a value (N, C, ...) are its second dimension; in a
flattened value, several consecutive features belong to each channel.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from phasegrid.errors import MetricError
from phasegrid.metrics.network.folding import BATCH_NORMS, CONVOLUTIONS, is_plain
from phasegrid.models.fused import ELEMENTWISE, ELEMENTWISE_FUNCTIONS, POOLING, POOLING_FUNCTIONS
from phasegrid.models.network_state import evaluating
from phasegrid.models.tracing import trace

TRACED_EXAMPLES = 2
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_SAME = (*ELEMENTWISE, *POOLING, *_DROPOUT, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Mish)
_SAME_FUNCTIONS = ELEMENTWISE_FUNCTIONS | POOLING_FUNCTIONS | {functional.dropout}
_SAME_METHODS = frozenset({"contiguous", "clone", "relu", "relu_", "tanh", "sigmoid"})
_RESHAPING = frozenset({torch.flatten, torch.reshape, "flatten", "reshape", "view"})
_BINARY = frozenset({
    operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul,
    torch.add, torch.sub, torch.mul, "add", "add_", "sub", "mul",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Axis:
    """A dimension of a tensor along which the channels of a group lie, each with `inner` numbers
    in a row.
    """

    dim: int
    group: int
    inner: int


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a network in the order of its forward pass: the number of channels of each, and
    the axes of every tensor of ``state_dict()`` that has some.
    """

    sizes: tuple[int, ...]
    axes: Mapping[str, tuple[Axis, ...]]


def channel_groups(module: nn.Module, inputs: Tensor) -> Groups:
    """Find the groups of channels of a network; a few of `inputs` (N, C, ...) run through it.

    Convolutions, linear layers, normalisations, elementwise layers, pooling, flattening and sums of
    values are understood. Whatever else a user's network does with channels is refused.

    Raises:
        MetricError: if the network cannot be traced, or a part of it is not understood; it is
            named.
    """
    try:
        graph = trace(module)
    except Exception as error:  # it runs the user's code on stand-ins, which may raise anything
        raise MetricError(
            f"matching channels: {type(module).__name__} cannot be traced: {error}; use align: none"
        ) from error
    reader = _Reader(module, graph)
    with evaluating(module):
        reader.run(inputs[:TRACED_EXAMPLES].clone())
    return reader.groups()


def permuted(
    state: Mapping[str, Tensor], groups: Groups, orders: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return tensors of a network with the channels of every group in the given order: channel i is
    the former channel ``orders[group][i]``.
    """
    moved = {}
    for name, value in state.items():
        for axis in groups.axes.get(name, ()):
            value = reordered(value, axis, orders[axis.group])
        moved[name] = value
    return moved


def reordered(value: Tensor, axis: Axis, order: Tensor) -> Tensor:
    """Return a tensor with the channels along `axis` in the given order."""
    places = order.to(value.device)
    if axis.inner > 1:
        within = torch.arange(axis.inner, device=value.device)
        places = (places.unsqueeze(1) * axis.inner + within).flatten()
    return value.index_select(axis.dim, places)


@dataclass(frozen=True, slots=True)
class _Channels:
    """The channels of a value: their group, and how many features belong to each."""

    group: int
    inner: int = 1


class _Reader(fx.Interpreter):
    """Runs a graph, and follows the channels of every value through it."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.extra_traceback = False  # a refusal names the place
        self._layers = dict(module.named_modules())
        self._found: dict[fx.Node, _Channels] = {}
        self._shapes: dict[fx.Node, torch.Size] = {}
        self._joined: list[int] = [0]  # group 0: channels that stay in place
        self._sizes: list[int] = [0]
        self._held: dict[tuple[int, int], _Channels] = {}  # by tensor and dimension

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; note shape and channels of its result."""
        result = super().run_node(n)
        if n.op == "output":
            (value,) = n.args
            if not isinstance(value, fx.Node) or value not in self._found:
                raise self._refusal(n, "the output is not one value with channels")
            self._join(0, self._found[value].group)
        elif isinstance(result, Tensor):
            self._shapes[n] = result.shape
            if n.op == "placeholder":
                self._found[n] = _Channels(0)
            elif n.op == "call_module":
                self._found[n] = self._after_layer(n)
            elif n.op != "get_attr":
                self._found[n] = self._after_operation(n, result)
        return result

    def groups(self) -> Groups:
        """Return what was found. Groups of one channel are left out: they cannot change."""
        numbers: dict[int, int] = {}
        for group in range(1, len(self._joined)):
            root = self._root(group)
            if root != 0 and self._sizes[root] > 1:
                numbers.setdefault(root, len(numbers))
        of_tensor: dict[int, list[Axis]] = {}
        for (tensor, dim), channels in self._held.items():
            number = numbers.get(self._root(channels.group))
            if number is not None:
                of_tensor.setdefault(tensor, []).append(Axis(dim, number, channels.inner))
        state = self.module.state_dict(keep_vars=True)
        axes = {name: tuple(of_tensor.get(id(value), ())) for name, value in state.items()}
        sizes = tuple(self._sizes[root] for root in numbers)
        return Groups(sizes, {name: found for name, found in axes.items() if found})

    def _after_layer(self, node: fx.Node) -> _Channels:
        layer, source = self._layers[str(node.target)], self._source(node)
        if isinstance(layer, nn.Linear) and is_plain(layer, (nn.Linear,)):
            if len(self._shapes[node]) != 2:
                raise self._refusal(node, f"a value of {len(self._shapes[node])} dimensions")
            return self._through(node, layer, source)
        if isinstance(layer, CONVOLUTIONS) and is_plain(layer, CONVOLUTIONS):
            if layer.groups == 1:
                return self._through(node, layer, source)
            if layer.groups == layer.in_channels == layer.out_channels:  # each by itself
                return self._along(layer, source)
        elif is_plain(layer, BATCH_NORMS) or self._normalises_all(layer, node):
            return self._along(layer, source)
        elif is_plain(layer, _SAME):
            return source
        elif isinstance(layer, nn.Flatten):
            return self._reshaped(node, source)
        raise self._refusal(node, repr(layer))

    def _normalises_all(self, layer: nn.Module, node: fx.Node) -> bool:
        """Say whether a layer normalises by the statistics of all channels together, or of each."""
        if isinstance(layer, nn.GroupNorm) and is_plain(layer, (nn.GroupNorm,)):
            return layer.num_groups in (1, layer.num_channels)
        return is_plain(layer, (nn.LayerNorm,)) and len(self._shapes[node]) == 2

    def _after_operation(self, node: fx.Node, result: Tensor) -> _Channels:
        if node.target in _BINARY:
            return self._combined(node)
        source = self._source(node)
        if any(value is result for value in self.fetch_args_kwargs_from_env(node)[0][:1]):
            return source  # it does nothing in eval mode, as stochastic depth
        if node.target in _SAME_FUNCTIONS or node.target in _SAME_METHODS:
            return source
        if node.target in _RESHAPING:
            return self._reshaped(node, source)
        if node.target in (torch.mean, "mean") and _is_mean_of_places(
            node, self._shape_before(node)
        ):
            return source
        raise self._refusal(node, "an operation that is not understood")

    def _source(self, node: fx.Node) -> _Channels:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source not in self._found:
            raise self._refusal(node, "an argument that is not a value with channels")
        return self._found[source]

    def _shape_before(self, node: fx.Node) -> torch.Size:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return self._shapes[source]

    def _through(self, node: fx.Node, layer: nn.Module, source: _Channels) -> _Channels:
        """Follow channels through a layer whose weight (out, in, ...) mixes them."""
        assert isinstance(layer.weight, Tensor)
        self._hold(node, layer.weight, 1, source)
        made = self._held.get((id(layer.weight), 0))
        if made is None:
            self._joined.append(len(self._joined))
            self._sizes.append(len(layer.weight))
            made = _Channels(len(self._sizes) - 1)
        self._hold(node, layer.weight, 0, made)
        if isinstance(layer.bias, Tensor):
            self._hold(node, layer.bias, 0, made)
        return made

    def _along(self, layer: nn.Module, source: _Channels) -> _Channels:
        """Follow channels through a layer that treats each by itself."""
        own = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
        for _, value in own:
            if value.dim() > 0:
                self._held.setdefault((id(value), 0), source)
                self._join(self._held[id(value), 0].group, source.group)
        return source

    def _reshaped(self, node: fx.Node, source: _Channels) -> _Channels:
        before, after = self._shape_before(node), self._shapes[node]
        if after == before:
            return source
        if len(after) == 2 and after[0] == before[0]:
            return _Channels(source.group, source.inner * before[2:].numel())
        raise self._refusal(node, f"a change of shape from {tuple(before)} to {tuple(after)}")

    def _combined(self, node: fx.Node) -> _Channels:
        """Follow channels through a sum or a product: those of both values are the same."""
        values = [value for value in node.args if isinstance(value, fx.Node)]
        tensors = [value for value in values if self._shapes.get(value, torch.Size()).numel() > 1]
        known = [self._found.get(value) for value in tensors]
        first, second = known[0], known[-1]
        if first is None or second is None or len(known) > 2:
            raise self._refusal(node, "a tensor without known channels")
        alike = {self._shapes[value][1:2] for value in tensors}
        if len(alike) > 1 or first.inner != second.inner:
            raise self._refusal(node, "values with different channels")
        self._join(first.group, second.group)
        return first

    def _hold(self, node: fx.Node, value: Tensor, dim: int, channels: _Channels) -> None:
        held = self._held.setdefault((id(value), dim), channels)
        if held.inner != channels.inner:
            raise self._refusal(node, "one weight for values with different channels")
        self._join(held.group, channels.group)

    def _root(self, group: int) -> int:
        while self._joined[group] != group:
            group = self._joined[group]
        return group

    def _join(self, one: int, other: int) -> None:
        """Let two groups be one; the smaller number stays, so group 0 takes in all it meets."""
        first, second = sorted((self._root(one), self._root(other)))
        self._joined[second] = first

    def _refusal(self, node: fx.Node, found: str) -> MetricError:
        place = node.target if node.op == "call_module" else node.name
        return MetricError(
            f"matching channels: at {place} of {type(self.module).__name__}: found {found};"
            " channels are followed through convolutions, linear layers on (N, features),"
            " normalisations of all channels or of each, elementwise layers, pooling, flattening"
            " and sums; use align: none"
        )


def _is_mean_of_places(node: fx.Node, before: torch.Size) -> bool:
    """Say whether a mean leaves examples and channels as they are."""
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    dims = (given,) if isinstance(given, int) else given
    if not isinstance(dims, (tuple, list)) or not dims:
        return False
    return all(isinstance(dim, int) and dim % len(before) > 1 for dim in dims)
