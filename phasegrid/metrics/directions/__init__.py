"""Directions through trained weights, left as an artifact for what looks along them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import UNIT_OF_LOSS, Column, Finding, Metric
from phasegrid.estimates import COPIES, FLOAT, Guess, Measurement, passes, training_bytes
from phasegrid.metrics.directions.names import names_mistake, networks_needed, numbers_of
from phasegrid.metrics.ranges import Count, Seed

Names = Annotated[tuple[str, ...], Field(min_length=1)]

GRADIENT_BATCH = 128
"""Examples that go forward and backward together where a gradient is that of many."""


@dataclass(frozen=True, slots=True)
class DirectionsArgs:
    """Directions epsilon through the weights theta of the first network of a job, named as in Xu et
    al. 2024 (appendix A.4), as they are found: nothing is scaled or normalised here.

    - `along`: which, in order. ``gaussian_0``, ``gaussian_1``, ...: independent draws from N(0, I).
      ``gradient``: -g, g the gradient of the mean loss at theta, without weight decay. ``to_1``,
      ``to_2``, ...: from theta to the weights of the second, third, ... network of the job: of a
      later or an earlier checkpoint (``over: trajectory``, ``at: [10, 200]``), or of another trial
      (``networks: [{seed: 0, at: 10}, {seed: 1}]``). ``weights``: theta itself.
    - `gradient_examples`: g is that of all training examples (null), or of a batch of so many drawn
      with `example_seed`, the same ones for every trial. (The paper has random batches in section
      2.3, and does not say of how many examples g is elsewhere.)
    - `batch_norm`: g is that of the network in eval mode, with running statistics ``as_saved``, or
      ``refreshed`` by one pass over the training set. (The paper does not say.)

    The artifact ``directions`` holds the vectors and theta, both over the trainable parameters.
    Metrics that are ``of`` it scale them as they say.
    """

    along: Names = ("gaussian_0",)
    gradient_examples: Count | None = None
    example_seed: Seed = 0
    batch_norm: Literal["as_saved", "refreshed"] = "as_saved"


def _named(args: Mapping[str, Any]) -> Finding | None:
    return names_mistake(args["along"], "along")


def _of_networks(args: Mapping[str, Any], num: int) -> Finding | None:
    return networks_needed(args["along"], num, "along")


def _cost(job: Measurement) -> Guess:
    work, args = job.work, job.args
    cost = Guess(1e-7 * len(args["along"]) * work.num_parameters)
    if numbers_of(args["along"], "gradient"):
        asked = args["gradient_examples"]
        examples = work.num_train if asked is None else min(int(asked), work.num_train)
        cost = cost + passes(work, examples, GRADIENT_BATCH, 3)
        if args["batch_norm"] == "refreshed":
            cost = cost + passes(work, work.num_train, 500, 1)
    return cost


def _memory(job: Measurement) -> int:
    vectors = len(job.args["along"]) + job.num_networks + COPIES
    return training_bytes(job.work, GRADIENT_BATCH, vectors)


def _disk(job: Measurement) -> int:
    return FLOAT * (len(job.args["along"]) + 1) * job.work.num_parameters


DIRECTIONS = Metric(
    over="cell",
    usual_over="trial",
    args=DirectionsArgs,
    compute="phasegrid.metrics.directions.compute:compute",
    one_model=True,
    label="Directions",
    rules=(_named,),
    of_networks=_of_networks,
    cost=_cost,
    memory=_memory,
    disk=_disk,
    leaves=("directions",),
    columns=(
        Column("direction", "string", "", "name of the direction", role="axis"),
        Column("norm", "float64", "", "Euclidean norm |d| of the direction", role="asked"),
        Column(
            "log_density",
            "float64",
            "nats",
            "log density of the direction under N(0, I): -|d|^2 / 2 - (P / 2) ln(2 pi)",
            role="asked",
        ),
        Column("against", "list<string>", "", "names of all directions of the job, in order"),
        Column(
            "cosine",
            "list<float64>",
            "",
            "cosine of the angle to each of them; null where one of both is zero",
        ),
        Column(
            "loss",
            "float64",
            UNIT_OF_LOSS,
            "mean loss at the weights, on the examples of the gradient; null for others",
            role="detail",
        ),
        Column("num_examples", "int64", "examples", "training examples of the gradient"),
        Column("num_parameters", "int64", "", "P, trainable parameters of the network"),
        Column("weight_norm", "float64", "", "Euclidean norm of these parameters", role="detail"),
        Column(
            "batch_norm",
            "string",
            "",
            "running statistics with which derivatives were taken; null without BatchNorm, or"
            " without derivatives",
        ),
    ),
)
