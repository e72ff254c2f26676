"""Run points of weight space as stacks of networks, while vertices between them train.

Letters: M networks of a stack.
"""

import math
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from phasegrid.datasets.dataset import Dataset
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.fused import Blueprint, find_architecture
from phasegrid.models.network_state import copy_network
from phasegrid.models.strategies import choose_strategy, largest_output_bytes
from phasegrid.models.weights import ParameterSlice, parameter_slices
from phasegrid.tasks import TASKS

MAX_BYTES = 2**25
"""The most bytes of the outputs of one layer in a stack on a CPU: the system clears larger blocks
anew each time they are asked for (`phasegrid.run.worker.malloc`). In batches of 128 images of 32x32
pixels, stacks of 5 and of 20 networks (10 and 40 MiB) were 1.15 and 1.03 times as fast as a loop
for a small CNN of width 4, and 1.37 and 1.24 times for ResNet18 of width 4.
"""


def choose_stacks(
    modules: Sequence[nn.Module], data: Dataset, batch_size: int, most: int, points: int = 1
) -> list[tuple[Blueprint, list[int]]]:
    """Say which pieces of work train faster as one stack, and with which blueprint; each is given
    by one network and runs at that many `points` at once. A stack of several pieces has at most
    `most` networks, and outputs of `MAX_BYTES`.

    Networks of one stack have the same traced graph, layers and list of parameters. A piece is left
    out if its data have batches of many shapes, if its network has no stacked form, if it runs
    alone at one point, or if the network alone keeps the device busy (`choose_strategy`).
    """
    if not TASKS[data.task].one_shape:
        return []
    alike: dict[tuple[str, tuple[ParameterSlice, ...]], list[int]] = {}
    for index, module in enumerate(modules):
        blueprint = find_architecture(_without_dropout(module))
        if blueprint is None:
            continue
        kind = (f"{blueprint.graph}\n{module}", parameter_slices(module))
        alike.setdefault(kind, []).append(index)
    size, example = min(batch_size, len(data.train_inputs)), data.train_inputs[:1]
    stacks = []
    for whole in alike.values():
        first = _without_dropout(modules[whole[0]])
        fitting = MAX_BYTES // max(1, size * largest_output_bytes(first, example))
        for members in _parts(whole, max(1, min(most, fitting) // points)):
            num = len(members) * points
            strategy, blueprint = choose_strategy("auto", first, example, num, size)
            if strategy == "fused":
                assert blueprint is not None
                stacks.append((blueprint, members))
    return stacks


def live_stack(blueprint: Blueprint, modules: Sequence[nn.Module], points: int = 1) -> FlatNetwork:
    """Return M networks into which weights are mixed, `points` for each module; each has its own
    untrained parameters, and BatchNorm has the statistics of the batch.
    """
    states = [state for m in modules for state in [m.state_dict()] * points]
    return FlatNetwork(modules[0], states, "fused", blueprint, keeps_statistics=False)


def _parts(members: list[int], most: int) -> list[list[int]]:
    """Cut a list into equal parts of at most `most`."""
    count = math.ceil(len(members) / most)
    return [members[i::count] for i in range(count)]


def _without_dropout(module: nn.Module) -> nn.Module:
    """Return a copy without dropout, which is never applied on the way between networks."""
    module = copy_network(module)
    for layer in module.modules():
        if isinstance(layer, _DropoutNd):
            layer.p = 0.0
    return module
