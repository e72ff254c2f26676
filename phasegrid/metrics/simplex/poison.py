"""Check what a request says about poison in the training of connectors. No torch here."""

from collections.abc import Mapping
from typing import Any

from phasegrid.declare import DatasetFacts, Finding
from phasegrid.registry import declared_objective
from phasegrid.train.compat import num_for_share
from phasegrid.train.recipe import CROSS_ENTROPY_NAME


def poison_mistake(args: Mapping[str, Any]) -> Finding | None:
    """Find weights of a poison that is not there, and two weights."""
    given = [name for name in ("poison_beta", "poison_scale") if args[name] is not None]
    if given and not args["poison_share"]:
        return given[0], f"found {args[given[0]]} without poison; set poison_share too"
    if len(given) == 2:
        return (
            "poison_scale",
            "found beside poison_beta, which weights in another way; leave out one",
        )
    return None


def poison_fits(
    args: Mapping[str, Any], recipe: Mapping[str, Any], facts: DatasetFacts
) -> Finding | None:
    """Find poison that the data or the objective of the networks cannot give."""
    share = float(args["poison_share"])
    if share == 0:
        return None
    chosen = recipe["objective"]
    name = CROSS_ENTROPY_NAME if chosen is None else chosen["name"]
    if facts.task != "classification" or declared_objective(name).predicts != "probabilities":
        return (
            "poison_share",
            f"found {share} for the task {facts.task} and the objective {name}; allowed there: 0,"
            " since only a label with a probability has a poisoned loss",
        )
    if num_for_share(share, facts.num_train, facts.num_aside) <= facts.num_aside:
        return None
    have = facts.num_aside / (facts.num_aside + facts.num_train)
    return (
        "poison_share",
        f"found {share}, but the data set sets aside only {have:.3g} of its training examples;"
        f" allowed: at most that. Set dataset.aside to {share} or more",
    )
