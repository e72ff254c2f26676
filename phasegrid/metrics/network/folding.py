"""Fold BatchNorm in eval mode into the convolution before it, differentiably.

y = gamma (W * x + b - mu) / s + beta, s = sqrt(var + eps), is one convolution with weight (gamma /
s) W and bias (gamma / s) (b - mu) + beta. Both are functions of the original parameters, so
gradients and Hessians with respect to these stay the same. A second derivative passes through half
as many activations.
"""

from collections import Counter

import torch
from torch import Tensor, fx, nn

from phasegrid.fallbacks import fall_back
from phasegrid.models.network_state import kept_attributes, outputs_of
from phasegrid.seeding import kept_draws

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SAME = 1e-3
"""The largest change that rounding may make by folding, as a share of the largest output, in
float32 through deep networks; a lost hook changes more.
"""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Return a module that computes the same as `module` and shares its parameters, with BatchNorm
    folded where possible.

    A plain BatchNorm layer in eval mode with running statistics is folded if its input is the
    output of a plain convolution that nothing else uses, and both are called once and have no
    hooks. If there is no such layer, or `torch.fx` cannot read the network, `module` itself is
    returned. `module` is not changed.
    """
    if not any(isinstance(layer, BATCH_NORMS) for layer in module.modules()):
        return module
    graph = read_graph(module, "BatchNorm is not folded into the convolutions")
    if graph is None:
        return module
    layers = dict(module.named_modules())
    calls = Counter(id(layers[str(n.target)]) for n in graph.nodes if n.op == "call_module")
    pairs = [node for node in graph.nodes if _can_fold(node, layers, calls)]
    if not pairs:
        return module
    folded = fx.GraphModule(module, graph)
    folded.training = module.training
    for node in pairs:
        before = node.args[0]
        conv, norm = layers[str(before.target)], layers[str(node.target)]
        assert isinstance(conv, CONVOLUTIONS)
        assert isinstance(norm, BATCH_NORMS)
        folded.set_submodule(str(before.target), FoldedConvolution(conv, norm))
        node.replace_all_uses_with(before)
        graph.erase_node(node)
    folded.graph = graph
    return folded


def fold_if_same(module: nn.Module, inputs: Tensor) -> nn.Module:
    """Return `module` with BatchNorm folded, or itself where that gives other outputs on `inputs`
    (N, ...).
    """
    network = fold_batch_norm(module)
    same = network is module or computes_the_same(network, module, inputs)
    return network if same else module


def computes_the_same(one: nn.Module, other: nn.Module, inputs: Tensor) -> bool:
    """Say whether two networks give the same outputs on `inputs` (N, ...), up to rounding."""
    with torch.no_grad():
        found, expected = outputs_of(one, inputs), outputs_of(other, inputs)
    if not isinstance(found, Tensor) or not isinstance(expected, Tensor):
        return False
    if found.shape != expected.shape or found.numel() == 0:
        return False
    return float((found - expected).abs().max()) <= SAME * float(expected.abs().max())


def read_graph(module: nn.Module, lost: str | None) -> fx.Graph | None:
    """Trace `module` in its present mode; None if its code cannot be traced, for example because of
    control flow on values. This is reported if something is `lost` by it.

    `torch.fx` reads the code of the root's class: the graph would contain neither its hooks nor a
    `forward` of this instance.
    """
    if is_hooked(module):
        return None
    try:
        with kept_draws(), kept_attributes(module):
            return fx.Tracer().trace(module)
    except Exception as error:  # it runs the user's code on stand-ins, which may raise anything
        if lost:
            fall_back(f"networks {type(module).__name__} cannot be traced: {lost}", error)
        return None


def is_plain(layer: nn.Module, types: tuple[type[nn.Module], ...]) -> bool:
    """Say whether `layer` is exactly of one of `types`, without hooks, parametrisations or code of
    its own.
    """
    own = {name for name, _ in layer.named_parameters(recurse=False)}
    return type(layer) in types and own <= {"weight", "bias"} and not is_hooked(layer)


def is_hooked(layer: nn.Module) -> bool:
    """Say whether calling `layer` does anything besides the `forward` of its class."""
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    return any(hooks) or "forward" in vars(layer)


class FoldedConvolution(nn.Module):
    """A convolution and the BatchNorm layer after it, as one convolution."""

    def __init__(self, conv: Convolution, norm: BatchNorm) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x: Tensor) -> Tensor:
        """Return norm(conv(x)), with `norm` in eval mode."""
        y: Tensor = self.conv._conv_forward(x, *self.fold())
        return y

    def fold(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the folded convolution, differentiable in the parameters of
        both layers.
        """
        conv, norm = self.conv, self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        if norm.affine:
            scale = scale * norm.weight
        shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
        bias = scale * shift
        if norm.affine:
            bias = bias + norm.bias
        return conv.weight * scale.view(-1, *[1] * (conv.weight.dim() - 1)), bias


def _can_fold(node: fx.Node, layers: dict[str, nn.Module], calls: Counter[int]) -> bool:
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return False
    before = node.args[0]
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
        return False
    norm, conv = layers[str(node.target)], layers[str(before.target)]
    if calls[id(norm)] != 1 or calls[id(conv)] != 1:
        return False
    return (
        is_plain(conv, CONVOLUTIONS)
        and is_plain(norm, BATCH_NORMS)
        and not norm.training
        and getattr(norm, "running_mean", None) is not None
    )
