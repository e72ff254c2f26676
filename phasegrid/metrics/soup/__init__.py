"""One network whose weights are the mean of those of several."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from phasegrid.declare import UNIT_OF_LOSS, Column, DatasetFacts, Finding, Metric
from phasegrid.estimates import FLOAT, Guess, Measurement, evaluation, evaluation_bytes
from phasegrid.metrics.alignment import Align, align_needs_classification, matching_cost
from phasegrid.metrics.ranges import Count


@dataclass(frozen=True, slots=True)
class SoupArgs:
    """The mean of the weights of the networks of a cell (Wortsman et al. 2022), beside the mean of
    their numbers: networks in one basin average well, others do not.

    - `recipe`: all of them (``uniform``); or (``greedy``, their recipe 1) one after another, best
      first by the error on the examples that ``dataset.aside`` keeps aside, each kept only if the
      error of the soup there does not rise.
    - Statistics of BatchNorm are recomputed from at most `refresh_examples` training examples; the
      networks themselves are measured as saved.
    - `align`: ``weights`` first matches the channels of all networks to those of the first
      (Ainsworth et al. 2023, algorithm 1). For classification.
    """

    recipe: Literal["uniform", "greedy"] = "uniform"
    align: Align = "none"
    refresh_examples: Count | None = None
    batch_size: Count = 128


def _fits(
    args: Mapping[str, Any], recipe: Mapping[str, Any], facts: DatasetFacts
) -> Finding | None:
    if args["recipe"] == "greedy" and not facts.num_aside:
        return (
            "recipe",
            "found greedy, which chooses by examples that are kept aside, but there are none;"
            " allowed: uniform, or dataset.aside with a share of the training set",
        )
    return align_needs_classification(args, recipe, facts)


def _cost(job: Measurement) -> Guess:
    guess = (job.num_networks + 2) * evaluation(job.work)
    matched = job.num_networks - 1 if job.args["align"] == "weights" else 0
    return guess + matched * matching_cost(job.work)


def _memory(job: Measurement) -> int:
    vectors = FLOAT * (job.num_networks + 4) * job.work.num_parameters
    return vectors + evaluation_bytes(job.work)


def _columns(name: str, called: str) -> tuple[Column, ...]:
    return (
        Column(
            f"{name}_loss",
            "float64",
            UNIT_OF_LOSS,
            f"loss of the soup, {called} set",
            label=f"{called} loss of the soup",
            better="lower",
            quantity=f"soup_{name}_loss",
        ),
        Column(
            f"{name}_error_percent",
            "float64",
            "%",
            f"error of the soup, {called} set",
            label=f"{called} error of the soup",
            better="lower",
            quantity=f"soup_{name}_error_percent",
        ),
        Column(
            f"mean_{name}_loss",
            "float64",
            UNIT_OF_LOSS,
            "mean over all networks of their own loss",
            role="detail",
        ),
        Column(
            f"mean_{name}_error_percent",
            "float64",
            "%",
            "mean over all networks of their own error",
            role="detail",
        ),
    )


SOUP = Metric(
    over="cell",
    args=SoupArgs,
    compute="phasegrid.metrics.soup.compute:compute",
    min_trials=2,
    one_model=True,
    label="Soup",
    cost=_cost,
    memory=_memory,
    fits=_fits,
    columns=(
        *_columns("train", "training"),
        *_columns("test", "test"),
        Column(
            "test_gain",
            "float64",
            "points",
            "mean test error of the networks minus that of the soup; > 0: it is better",
            label="gain of the soup",
            better="higher",
            centre=0.0,
            quantity="soup_test_gain",
        ),
        Column("num_networks", "int64", "", "networks that there are", role="detail"),
        Column("num_averaged", "int64", "", "networks in the soup", role="detail"),
    ),
)
