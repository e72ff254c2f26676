"""Decide whether a network is piecewise linear, so that its Hessian and its Gauss-Newton matrix
have the same trace.

With piecewise-linear units and BatchNorm in eval mode every logit is, almost everywhere, affine in
each single weight if the others are fixed. So d2 z_c / d w_i^2 = 0, the residual term of the
Hessian has a zero diagonal, and tr(H) = tr(GGN) for any loss on the logits. This does not hold for
smooth activations, attention, LayerNorm, BatchNorm in train mode, weights that are used twice and
products of activations. The Gauss-Newton matrix is summed example by example, so no example may see
another; a mean over the batch, for example, is not allowed. The network's graph is read with
`torch.fx`, and every operation must be on the list. Dimension 0 is that of the examples. A
dimension that is counted from the end could be the same one, unless it is the last.
"""

import operator
from collections import Counter

import torch
from torch import fx, nn
from torch.nn import functional

from phasegrid.metrics.network.folding import is_plain, read_graph

WEIGHTED = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)
WEIGHTLESS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.Hardtanh,
    nn.Identity,
    nn.Flatten,
    nn.ConstantPad1d,
    nn.Dropout,
    nn.Dropout2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
FUNCTIONS = frozenset(
    {
        operator.add,
        operator.iadd,
        operator.sub,
        operator.neg,
        operator.getitem,
        getattr,
        torch.add,
        torch.sub,
        torch.relu,
        functional.relu,
        functional.leaky_relu,
        torch.flatten,
        torch.cat,
        torch.mean,
        functional.max_pool2d,
        functional.avg_pool2d,
        functional.adaptive_avg_pool2d,
    }
)
METHODS = frozenset(
    {"add", "sub", "relu", "flatten", "reshape", "view", "size", "mean", "contiguous"}
)


def is_piecewise_linear(module: nn.Module) -> bool:
    """Say whether tr(H) = tr(GGN) is known to hold for `module` in its present mode, by a list of
    operations.

    False also if it is not known: for code that `torch.fx` cannot read, or a layer that is not on
    the list.
    """
    could_be = all(type(m) in WEIGHTED for m in module.modules() if _holds_parameters(m))
    lost = "the trace of the Hessian is estimated, not exact" if could_be else None
    graph = read_graph(module, lost)
    if graph is None or _has_tied_parameters(module):
        return False
    layers = dict(module.named_modules())
    calls = Counter(id(layers[str(n.target)]) for n in graph.nodes if n.op == "call_module")
    return all(_is_linear_step(node, layers, calls) for node in graph.nodes)


def _holds_parameters(layer: nn.Module) -> bool:
    """Say whether a layer itself has parameters, not only the layers inside it."""
    return next(layer.parameters(recurse=False), None) is not None


def _is_linear_step(node: fx.Node, layers: dict[str, nn.Module], calls: Counter[int]) -> bool:
    if node.op in {"placeholder", "output"}:
        return True
    if node.op == "call_function":
        return node.target in FUNCTIONS and _keeps_examples_apart(node)
    if node.op == "call_method":
        return node.target in METHODS and _keeps_examples_apart(node)
    if node.op != "call_module":
        return False  # get_attr: a parameter used outside a layer
    layer = layers[str(node.target)]
    if isinstance(layer, nn.Flatten) and not _is_of_features(layer.start_dim):
        return False
    if is_plain(layer, WEIGHTLESS):
        return not (layer.training and isinstance(layer, nn.Dropout | nn.Dropout2d))
    return is_plain(layer, WEIGHTED) and calls[id(layer)] == 1 and _is_affine(layer)


def _keeps_examples_apart(node: fx.Node) -> bool:
    """Say whether a listed function or method is known not to mix examples."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    second = node.args[1] if len(node.args) > 1 else None
    if name in {"mean", "cat"}:
        return _is_of_features(node.kwargs.get("dim", second))
    if name == "flatten":
        return _is_of_features(node.kwargs.get("start_dim", second))
    if name == "getattr":
        return bool(second == "shape")
    if name == "getitem":
        return _is_size(node.args[0]) or _takes_every_example(second)
    if name in {"view", "reshape"}:
        first = second[0] if isinstance(second, tuple | list) else second
        return isinstance(first, fx.Node) or (isinstance(first, int) and first == -1)
    return True


def _is_of_features(dims: object) -> bool:
    several = dims if isinstance(dims, tuple | list) else [dims]
    chosen = [isinstance(dim, int) and (dim >= 1 or dim == -1) for dim in several]
    return bool(chosen) and all(chosen)


def _is_size(value: object) -> bool:
    """Say whether a value of the graph is the size of a tensor, not a tensor."""
    if not isinstance(value, fx.Node):
        return False
    return value.target == "size" or (value.target is getattr and bool(value.args[1] == "shape"))


def _takes_every_example(index: object) -> bool:
    first = index[0] if isinstance(index, tuple | list) and index else index
    return first is Ellipsis or (isinstance(first, slice) and first == slice(None))


def _is_affine(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return not layer.training and layer.running_mean is not None
    return True


def _has_tied_parameters(module: nn.Module) -> bool:
    own = [id(p) for layer in module.modules() for p in layer.parameters(recurse=False)]
    return len(set(own)) < len(own)
