"""BatchNorm in train mode with what follows it, as one operation, and where a traced network has
it.

A ResNet normalizes, adds and rectifies after every convolution. Done one by one each reads and
writes all images; merged, the images are read twice and written once.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from phasegrid.models.compiled import kernels_of

Running = tuple[Tensor, Tensor, Tensor]
"""The running mean and variance (C,), and the number of batches seen."""

Norm = Callable[
    [Tensor, Tensor | None, Tensor | None, Tensor | None, Running | None, float, float, bool],
    tuple[Tensor, Tensor],
]
"""From x (N, C, ...), a residual, gain and shift (C,), running statistics to update, their
momentum, eps and whether ReLU follows to relu(BatchNorm(x) + residual), twice: two users of the
result may each take one, and their gradients are added where they are read.
"""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
ADDITIONS = frozenset({operator.add, operator.iadd, torch.add})
RELUS = frozenset({torch.relu, functional.relu, "relu"})


@dataclass(frozen=True, slots=True)
class Merge:
    """A BatchNorm with what follows it: perhaps the addition of a `residual`, perhaps ReLU."""

    norm: fx.Node
    residual: fx.Node | None
    relu: bool
    nodes: tuple[fx.Node, ...]
    """All of them, the last one last."""


def merges_of(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> list[Merge]:
    """Find every BatchNorm of a graph, and what can be done with it: operations that alone use the
    result before them.
    """
    merges: list[Merge] = []
    taken: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[str(node.target)], BATCH_NORMS):
            continue
        nodes, residual = [node], None
        follower = _only_user(node)
        if follower is not None and follower not in taken:
            residual = _other_summand(follower, node)
            if residual is not None:
                nodes.append(follower)
                follower = _only_user(follower)
        relu = follower is not None and _is_relu(follower, modules)
        if relu and follower is not None:
            nodes.append(follower)
        taken.update(nodes)
        merges.append(Merge(node, residual, relu, tuple(nodes)))
    return merges


def norm_by_torch(
    x: Tensor,
    residual: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    running: Running | None,
    momentum: float,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """Do it operation by operation."""
    mean, variance = None, None
    if running is not None:
        mean, variance, count = running
        count.add_(1)
    y = functional.batch_norm(x, mean, variance, gain, shift, True, momentum, eps)
    y = y if residual is None else y + residual
    y = y.relu_() if relu else y
    return y, y


def merged_norm(device: torch.device) -> Norm:
    """Return the merged operation for a device: Triton kernels on a GPU that has them."""
    kernels = kernels_of("phasegrid.models.norm_kernel", device)
    if kernels is None:
        return norm_by_torch
    by_kernels: Norm = kernels.norm
    return by_kernels


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _other_summand(node: fx.Node, summand: fx.Node) -> fx.Node | None:
    """Return what a node adds to `summand`; None if it does something else."""
    if node.target not in ADDITIONS or len(node.args) != 2 or node.kwargs:
        return None
    others = [value for value in node.args if value is not summand]
    return others[0] if len(others) == 1 and isinstance(others[0], fx.Node) else None


def _is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.ReLU)
    return node.target in RELUS
