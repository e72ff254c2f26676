"""The argument `align` of metrics that join networks in weight space. No torch here."""

from collections.abc import Mapping
from typing import Any, Literal

from phasegrid.declare import DatasetFacts, Finding
from phasegrid.estimates import Guess, Workload

Align = Literal["none", "weights"]
"""Whether the channels of a network are first matched to those of another
(`phasegrid.metrics.network.matching`).
"""

MATCHING_SWEEPS = 6
"""How often weight matching goes through all groups of channels: 3 to 8 were usual."""


def matching_cost(work: Workload) -> Guess:
    """Return the cost of matching two networks: products of all pairs of channels of a layer, in
    float64, along both dimensions of each weight.
    """
    channels = (work.num_parameters / max(1, work.layers)) ** 0.5 / 3
    return Guess(0.1, MATCHING_SWEEPS * 4 * work.num_parameters * channels / 1e10)


def align_needs_classification(
    args: Mapping[str, Any], _recipe: Mapping[str, Any], facts: DatasetFacts
) -> Finding | None:
    """Say that the channels of networks for text are not matched."""
    if args["align"] == "none" or facts.task == "classification":
        return None
    return (
        "align",
        f"found {args['align']}, but the networks are for {facts.task}, and channels are matched"
        " for classification only; allowed: none",
    )
