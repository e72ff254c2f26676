"""Take weights into the state of a collector (`phasegrid.train.collectors`).

Weights are a vector (P,) of the trainable parameters. A state is tensors by name, which snapshots
save as they are. Means are in float64.
"""

import torch
from torch import Tensor

State = dict[str, Tensor]
"""``mean`` (P,), ``count`` () and the collector's other tensors; empty before the first weights."""


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
