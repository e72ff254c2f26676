"""Run many networks of one architecture as one network with grouped kernels.

Members' channels are stacked side by side: a convolution becomes a grouped one, BatchNorm gets M
times the channels, linear layers become one batched product. Elementwise layers and pooling do not
change. The network is read with ``torch.fx``; a network that uses anything else cannot be fused and
trains by another strategy. Measured on one CPU thread: 1.5-5 times faster than one at a time for
small networks (tests/benchmarks/bench_packing.py).

Letters: M members, B examples of one batch, C channels, F features. A value is laid out either with
members first, (M, B, ...), or with channels side by side, (B, M C, H, W).
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from phasegrid.fallbacks import fall_back
from phasegrid.models.hidden_parts import hidden_part
from phasegrid.models.image_layouts import Layouts, layouts_of
from phasegrid.models.network_state import kept_modes
from phasegrid.models.norms import (
    ADDITIONS,
    BATCH_NORMS,
    RELUS,
    Merge,
    Norm,
    Running,
    merges_of,
    norm_by_torch,
)
from phasegrid.models.tracing import trace

Layout = Literal["members", "channels"]
Step = tuple[Callable[..., Any], tuple[int, ...]]

ELEMENTWISE = (
    nn.ReLU,
    nn.Tanh,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.LeakyReLU,
    nn.ELU,
    nn.Softplus,
    nn.Identity,
)
POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
ELEMENTWISE_FUNCTIONS = RELUS | {torch.tanh, functional.tanh, functional.gelu, functional.silu}
POOLING_FUNCTIONS = frozenset(
    {functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d}
)


class NotFusableError(ValueError):
    """A part of a network has no stacked form here; the message names it."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A traced architecture that can be fused, without weights."""

    graph: fx.Graph
    modules: Mapping[str, nn.Module]


def read_architecture(module: nn.Module) -> Blueprint:
    """Trace `module` in train mode and check that every part of it has a stacked form. Modes are
    restored.

    Raises:
        NotFusableError: if a part has none; the message names it.
    """
    with kept_modes(module):
        hidden = hidden_part(module.train())
        if hidden is not None:
            raise NotFusableError(f"{hidden}, which has no stacked form")
        try:
            graph = trace(module)
        except Exception as error:  # it runs the user's code on stand-ins, which may raise anything
            raise NotFusableError(f"{type(module).__name__} cannot be traced: {error}") from error
    blueprint = Blueprint(graph, dict(module.named_modules()))
    fuse(blueprint, {}, {}, 1)
    return blueprint


def find_architecture(module: nn.Module) -> Blueprint | None:
    """Return the architecture of `module`; None if a part of it has no stacked form, or its code
    cannot be traced.
    """
    try:
        return read_architecture(module)
    except NotFusableError as error:
        if error.__cause__ is not None:  # not an unknown layer, but code that fails
            name = type(module).__name__
            fall_back(
                f"networks {name} are not stacked, because they cannot be traced", error.__cause__
            )
        return None


def fuse(
    blueprint: Blueprint,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    num_members: int,
    merged: Norm | None = None,
) -> Callable[[Tensor], Tensor]:
    """Return the stacked forward pass in train mode, inputs (M, B, *S) to logits (M, B, C).

    `parameters` and `buffers` hold tensors stacked along a first dimension M by the names of the
    module; they are read at each call, and running statistics are updated in place, if `buffers`
    holds them. With `merged`, BatchNorm, additions and ReLU are that one operation where possible.

    Raises:
        NotFusableError: if some part has no stacked form.
    """
    layouts = layouts_of(blueprint.modules[""], num_members)
    merges = merges_of(blueprint.graph, blueprint.modules) if merged else []
    builder = _Builder(blueprint.modules, parameters, buffers, num_members, layouts, merged, merges)
    for node in blueprint.graph.nodes:
        builder.add(node)
    steps, last = tuple(builder.steps), builder.output

    def forward(inputs: Tensor) -> Tensor:
        values: list[Any] = [inputs]
        for function, sources in steps:
            values.append(function(*[values[i] for i in sources]))
        outputs: Tensor = values[last]
        return outputs

    return forward


class _Builder:
    """Turns graph nodes into steps. A value is named by its index, and its layout is known when its
    step is built.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        num_members: int,
        images: Layouts,
        norm: Norm | None,
        merges: Iterable[Merge],
    ) -> None:
        self.modules, self.parameters, self.buffers = modules, parameters, buffers
        self.num_members, self.images, self.norm = num_members, images, norm or norm_by_torch
        self.merges = {node: merge for merge in merges for node in merge.nodes}
        self.steps: list[Step] = []
        self.layouts: list[Layout] = ["members"]
        self.index: dict[fx.Node, int] = {}
        self.twins: dict[fx.Node, int] = {}  # for one user of a value each
        self.output = 0

    def add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.index:
                raise NotFusableError("a network with several inputs has no stacked form")
            self.index[node] = 0
        elif node.op == "output":
            self.output = self._source(node, 0, "members")
        elif node in self.merges:
            if node is self.merges[node].nodes[-1]:
                both = self._merged(self.merges[node])
                for index, found in enumerate((self.index, self.twins)):
                    found[node] = self._push(operator.itemgetter(index), (both,), "channels")
        elif node.op == "call_module":
            self.index[node] = self._module(node, str(node.target))
        else:
            self.index[node] = self._function(node)

    def _module(self, node: fx.Node, name: str) -> int:
        module = self.modules[name]
        if isinstance(module, nn.Linear):
            return self._push(self._linear(name), (self._source(node, 0, "members"),), "members")
        if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
            function = self._convolution(name, module)
            return self._push(function, (self._source(node, 0, "channels"),), "channels")
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.momentum is not None:
            if module.running_mean is not None:
                norm = self._batch_norm(name, module, module.momentum)
                source = self._source(node, 0, "channels")
                return self._push(lambda x: norm(x)[0], (source,), "channels")
        elif isinstance(module, POOLING):
            return self._push(module, (self._source(node, 0, "channels"),), "channels")
        elif isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
            return self._flatten(node)
        elif isinstance(module, nn.ConstantPad1d):
            return self._push(module, (self._source(node, 0, "members"),), "members")
        elif isinstance(module, ELEMENTWISE) or _is_idle_dropout(module):
            source = self._source(node, 0, None)
            in_place = isinstance(module, nn.ReLU) and self._is_spent(node.args[0])
            function = torch.relu_ if in_place else module
            return self._push(function, (source,), self.layouts[source])
        raise NotFusableError(f"{name} ({module}) has no stacked form")

    def _merged(self, merge: Merge) -> int:
        name = str(merge.norm.target)
        module = self.modules[name]
        assert isinstance(module, BATCH_NORMS)
        assert module.momentum is not None
        sources = [self._source(merge.norm, 0, "channels")]
        if merge.residual is not None:
            sources.append(self._brought(merge.residual, "channels"))
        function = self._batch_norm(name, module, module.momentum, merge.relu)
        return self._push(function, tuple(sources), "channels")

    def _function(self, node: fx.Node) -> int:
        target, constants = node.target, (*node.args[1:], *node.kwargs.values())
        is_sum = target in ADDITIONS and len(node.args) == 2 and not node.kwargs  # no alpha
        is_sum = is_sum and not (target is operator.iadd and _is_used_after(node))
        if is_sum and isinstance(node.args[1], fx.Node):
            first = self._source(node, 0, None)
            second = self._source(node, 1, self.layouts[first])
            return self._push(torch.add, (first, second), self.layouts[first])
        if not any(isinstance(value, fx.Node) for value in constants):
            if target in ELEMENTWISE_FUNCTIONS:
                source = self._source(node, 0, None)
                return self._push(_bound(node), (source,), self.layouts[source])
            if target in POOLING_FUNCTIONS:
                return self._push(_bound(node), (self._source(node, 0, "channels"),), "channels")
            if target in (torch.flatten, "flatten") and _flattens_examples(node):
                return self._flatten(node)
        raise NotFusableError(f"{node.format_node()} has no stacked form")

    def _source(self, node: fx.Node, position: int, layout: Layout | None) -> int:
        """Return the index of an argument, after a step that brings it into `layout` if one is
        given.
        """
        argument = node.args[position]
        if not isinstance(argument, fx.Node):
            raise NotFusableError(f"{node.format_node()} has no stacked form")
        return self._brought(argument, layout)

    def _brought(self, argument: fx.Node, layout: Layout | None) -> int:
        source = self.twins.pop(argument, self.index[argument])
        if layout is None or self.layouts[source] == layout:
            return source
        count, images = self.num_members, self.images
        if layout == "channels":
            return self._push(lambda x: side_by_side(x, images), (source,), layout)
        return self._push(lambda x: members_first(x, count), (source,), layout)

    def _push(self, function: Callable[..., Any], sources: tuple[int, ...], to: Layout) -> int:
        self.steps.append((function, sources))
        self.layouts.append(to)
        return len(self.steps)

    def _is_spent(self, argument: object) -> bool:
        """Say whether a value may be overwritten: it is used only once, and the backward pass of
        the layer that made it needs only that layer's input.
        """
        if not isinstance(argument, fx.Node) or argument.op != "call_module":
            return False
        makers = (nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)
        return isinstance(self.modules[str(argument.target)], makers) and len(argument.users) == 1

    def _flatten(self, node: fx.Node) -> int:
        return self._push(lambda x: x.flatten(2), (self._source(node, 0, "members"),), "members")

    def _linear(self, name: str) -> Callable[[Tensor], Tensor]:
        weight, bias = self.parameters.get(f"{name}.weight"), self.parameters.get(f"{name}.bias")

        def apply(x: Tensor) -> Tensor:
            assert weight is not None
            if x.dim() > 3:
                y = apply(x.flatten(1, -2))
                return y.view(*x.shape[:-1], y.shape[-1])
            if bias is None:
                return torch.bmm(x, weight.mT)
            return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)

        return apply

    def _convolution(self, name: str, module: nn.Conv2d) -> Callable[[Tensor], Tensor]:
        weight, bias = (_in_a_row(self.parameters.get(f"{name}.{k}")) for k in ("weight", "bias"))
        groups = self.num_members * module.groups
        stride, padding, dilation = module.stride, module.padding, module.dilation

        def apply(x: Tensor) -> Tensor:
            kernel = weight()
            assert kernel is not None
            return functional.conv2d(x, kernel, bias(), stride, padding, dilation, groups)

        return apply

    def _batch_norm(
        self,
        name: str,
        module: nn.BatchNorm1d | nn.BatchNorm2d,
        momentum: float,
        relu: bool = False,
    ) -> Callable[..., tuple[Tensor, Tensor]]:
        weight, bias = (_in_a_row(self.parameters.get(f"{name}.{k}")) for k in ("weight", "bias"))
        keys = ("running_mean", "running_var", "num_batches_tracked")
        mean, variance, count = (self.buffers.get(f"{name}.{key}") for key in keys)
        eps, norm = module.eps, self.norm

        def apply(x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
            running: Running | None = None
            if mean is not None and variance is not None:
                assert count is not None
                running = mean.view(-1), variance.view(-1), count
            return norm(x, residual, weight(), bias(), running, momentum, eps, relu)

        return apply


def side_by_side(x: Tensor, images: Layouts) -> Tensor:
    """Bring (M, B, C, ...) to (B, M C, ...), with images in the given memory layout."""
    return images.lay_out(x.transpose(0, 1).flatten(1, 2))


def members_first(x: Tensor, num_members: int) -> Tensor:
    """Bring (B, M C, ...) to (M, B, C, ...), a view."""
    return x.view(len(x), num_members, -1, *x.shape[2:]).transpose(0, 1)


def _in_a_row(stacked: Tensor | None) -> Callable[[], Tensor | None]:
    """Return a function that gives a stacked parameter (M, C, ...) as (M C, ...); gains and shifts
    contiguous, kernels of convolutions as they lie.

    (With strided gains torch 2.15 gives wrong BatchNorm gradients of channels_last inputs on a
    CPU.) A leaf that already has its gradient is replaced once by another leaf with the same
    numbers and the same gradient. So no view has to be taken and differentiated at each call.
    """
    if stacked is None:
        return lambda: None
    if stacked.is_leaf and stacked.grad is not None and stacked.is_contiguous():
        leaf = stacked.detach().flatten(0, 1).requires_grad_()
        leaf.grad = stacked.grad.flatten(0, 1)
        if leaf.grad.data_ptr() == stacked.grad.data_ptr():
            return lambda: leaf
    if stacked.dim() == 2:
        return lambda: stacked.flatten(0, 1).contiguous()
    return lambda: stacked.flatten(0, 1)


def _flattens_examples(node: fx.Node) -> bool:
    """Whether a call of flatten keeps the first dimension and joins all others."""
    given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
    return {"start_dim": 0, "end_dim": -1} | given == {"start_dim": 1, "end_dim": -1}


def _is_used_after(node: fx.Node) -> bool:
    """Say whether later nodes use the tensor into which a node writes under its old name; a stack
    writes into a new tensor.
    """
    written = node.args[0]
    return isinstance(written, fx.Node) and any(user > node for user in written.users)


def _is_idle_dropout(module: nn.Module) -> bool:
    return isinstance(module, nn.Dropout) and module.p == 0


def _bound(node: fx.Node) -> Callable[[Tensor], Tensor]:
    """Bind a traced function to its constant arguments."""
    function = torch.relu if node.target == "relu" else node.target
    rest, kwargs = node.args[1:], dict(node.kwargs)
    assert callable(function)

    def apply(x: Tensor) -> Tensor:
        result: Tensor = function(x, *rest, **kwargs)
        return result

    return apply
