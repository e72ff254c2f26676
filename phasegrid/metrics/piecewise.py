"""Is a network piecewise linear, so that the trace of its Hessian is that of its Gauss-Newton matrix?

With piecewise-linear units and BatchNorm in eval mode every logit is, almost everywhere, affine in each single weight while
the others stand still. So d2 z_c / d w_i^2 = 0, the residual term of the Hessian has a zero diagonal, and tr(H) = tr(GGN)
for any loss on the logits. It fails for smooth activations, attention, LayerNorm, BatchNorm in train mode, weights used twice and
products of activations. The network's graph is read with `torch.fx` and every operation must be on the list.
"""

import operator
from collections import Counter

import torch
from torch import fx, nn
from torch.nn import functional

from phasegrid.metrics.folding import is_plain, read_graph

WEIGHTED = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)
WEIGHTLESS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh, nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d,
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)  # fmt: skip
FUNCTIONS = frozenset({
    operator.add, operator.iadd, operator.sub, operator.neg, operator.getitem, getattr, torch.add, torch.sub,
    torch.relu, functional.relu, functional.leaky_relu, torch.flatten, torch.cat, torch.mean,
    functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d,
})  # fmt: skip
METHODS = frozenset(
    {"add", "sub", "relu", "flatten", "reshape", "view", "size", "mean", "contiguous"}
)


def is_piecewise_linear(module: nn.Module) -> bool:
    """Say whether tr(H) = tr(GGN) is known to hold for `module` in its present mode, by a list of operations.

    False also where it is not known: code that `torch.fx` cannot read, or a layer that is not on the list.
    """
    graph = read_graph(module)
    if graph is None or _has_tied_parameters(module):
        return False
    layers = dict(module.named_modules())
    calls = Counter(id(layers[str(n.target)]) for n in graph.nodes if n.op == "call_module")
    return all(_is_linear_step(node, layers, calls) for node in graph.nodes)


def _is_linear_step(node: fx.Node, layers: dict[str, nn.Module], calls: Counter[int]) -> bool:
    if node.op in {"placeholder", "output"}:
        return True
    if node.op == "call_function":
        return node.target in FUNCTIONS
    if node.op == "call_method":
        return node.target in METHODS
    if node.op != "call_module":
        return False  # get_attr: a parameter used outside a layer
    layer = layers[str(node.target)]
    if is_plain(layer, WEIGHTLESS):
        return not (layer.training and isinstance(layer, nn.Dropout | nn.Dropout2d))
    return is_plain(layer, WEIGHTED) and calls[id(layer)] == 1 and _is_affine(layer)


def _is_affine(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return not layer.training and layer.running_mean is not None
    return True


def _has_tied_parameters(module: nn.Module) -> bool:
    own = [id(p) for layer in module.modules() for p in layer.parameters(recurse=False)]
    return len(set(own)) < len(own)
