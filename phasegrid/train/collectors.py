"""Collectors accumulate statistics of the weights during a training.

``swa``: the running mean of the weights (Izmailov et al. 2018, algorithm 1). ``swag``: also the
running mean of their squares and the last K deviations from the running mean (Maddox et al. 2019,
algorithm 1). SWAG's Gaussian over weights has the mean as its mean and, as its covariance, half of
diag(square - mean^2) plus half of the deviations' outer product over K - 1.

A collector takes the weights as a vector (P,) of the trainable parameters and returns a new state:
tensors by name, which snapshots save as they are. Means are in float64.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]
"""``mean`` (P,), ``count`` () and the collector's other tensors; empty before the first weights."""


@dataclass(frozen=True, slots=True)
class Collector:
    """A collector: ``take(state, weights, rank) -> state`` adds weights to the state. The
    ``averaged`` network is always left as an artifact; `moments` says whether the state is left as
    well.
    """

    take: Callable[[State, Tensor, int], State]
    leaves_moments: bool = False


def take_mean(state: State, weights: Tensor, _rank: int) -> State:
    """Add weights to the running mean: m + (w - m) / n for the n-th."""
    w = weights.double()
    if not state:
        return {"mean": w, "count": torch.tensor(1)}
    count = state["count"] + 1
    return {"mean": state["mean"] + (w - state["mean"]) / int(count), "count": count}


def take_moments(state: State, weights: Tensor, rank: int) -> State:
    """Add weights to both running moments, and append their deviation from the new mean, in
    float32, to the last `rank` deviations (K, P).
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
