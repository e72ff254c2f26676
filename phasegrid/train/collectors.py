"""Collectors watch a training: they take in its weights at certain moments and leave what they have
come to.

``swa``: the running mean of the weights (Izmailov et al. 2018, algorithm 1). ``swag``: also the
mean of their squares and the last K deviations from the mean as it was then (Maddox et al. 2019,
algorithm 1), from which a Gaussian over weights is made: mean, diag(square - mean^2) and the
deviations' outer product over K - 1, each of the two halved.

A collector takes the weights as a vector (P,) of the trainable parameters and returns a new state:
tensors by name, so that snapshots hold it as it is. Means are in float64. A collector of one's own
is another entry of `COLLECTORS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]
"""``mean`` (P,), ``count`` () and what else a collector needs; empty before the first weights."""


@dataclass(frozen=True, slots=True)
class Collector:
    """How weights are taken in, ``take(state, weights, rank) -> state``, and whether the state is
    left as ``moments`` beside the ``averaged`` network.
    """

    take: Callable[[State, Tensor, int], State]
    leaves_moments: bool = False


def take_mean(state: State, weights: Tensor, _rank: int) -> State:
    """Take weights into a running mean: m + (w - m) / n for the n-th."""
    w = weights.double()
    if not state:
        return {"mean": w, "count": torch.tensor(1)}
    count = state["count"] + 1
    return {"mean": state["mean"] + (w - state["mean"]) / int(count), "count": count}


def take_moments(state: State, weights: Tensor, rank: int) -> State:
    """Take weights into both running moments, and their deviation from the new mean, in float32,
    into the last `rank` of these, (K, P).
    """
    w = weights.double()
    new = take_mean(state, weights, rank)
    count = int(new["count"])
    deviation = (w - new["mean"]).float()[None]
    if count == 1:
        return {**new, "square": w**2, "deviations": deviation}
    square = state["square"] + (w**2 - state["square"]) / count
    deviations = torch.cat([state["deviations"], deviation])[-rank:]
    return {**new, "square": square, "deviations": deviations}


COLLECTORS: Mapping[str, Collector] = {
    "swa": Collector(take_mean),
    "swag": Collector(take_moments, leaves_moments=True),
}
