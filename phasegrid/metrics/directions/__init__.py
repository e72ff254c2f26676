"""Directions through trained weights, left as an artifact for what looks along them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Finding, Metric
from phasegrid.estimates import (
    COPIES,
    FLOAT,
    Guess,
    Measurement,
    passes,
    per_example,
    training_bytes,
)
from phasegrid.metrics.directions.names import names_mistake, networks_needed, numbers_of
from phasegrid.metrics.hessian import PRODUCT_LAUNCHES, SECOND_ORDER
from phasegrid.metrics.ranges import Count, NonNegative, Positive, Seed
from phasegrid.texts import counted

Names = Annotated[tuple[str, ...], Field(min_length=1)]

Mined: TypeAlias = Literal["w_peak", "vvv_basin"]

POINTS: Mapping[Mined, int] = {"w_peak": 1, "vvv_basin": 2}
"""The directions that are mined, each with the number of points whose gradients make an update."""

GRADIENT_BATCH = 128
"""Examples that go forward and backward together where a gradient is that of many."""


@dataclass(frozen=True, slots=True)
class DirectionsArgs:
    """Directions epsilon through the weights theta of the first network of a job, named as in Xu et
    al. 2024 (appendix A.4), as they are found: nothing is scaled or normalised here.

    - `along`: which, in order. ``gaussian_0``, ``gaussian_1``, ...: independent draws from N(0, I).
      ``gradient``: -g, g the gradient of the mean loss at theta, without weight decay.
      ``aligned_100``: of so many further draws from N(0, I), the one at the smallest angle to -g,
      scaled to its norm (section 2.3 and figure 6). ``to_1``, ``to_2``, ...: from theta to the
      weights of the second, third, ... network of the job: of a later or an earlier checkpoint
      (``over: trajectory``, ``at: [10, 200]``), or of another trial (``networks: [{seed: 0, at:
      10}, {seed: 1}]``). ``weights``: theta itself. ``positive_1``, ``positive_2``, ...: unit
      eigenvectors of the largest eigenvalues of the Hessian at theta (the paper's "P.E."),
      ``negative_1``, ...: of the smallest ("N.E."; late in training they may be those of positive
      eigenvalues). ``component_1``, ...: unit principal components of the offsets of all networks
      of the job from the first (Li et al. 2018, section 7.2, have the last network of a training
      there: ``at: [20, 0, 5, 10, 15]``). The sign of eigenvectors and components has no meaning.
      ``w_peak`` is mined by Algorithm 1, ``vvv_basin`` by Algorithm 2.
    - `gradient_examples`: g is that of all training examples (null), or of a batch of so many drawn
      with `example_seed`, the same ones for every trial. (The paper has random batches in section
      2.3, and does not say of how many examples g is elsewhere.)
    - `hessian_examples`: training examples of the Hessian, drawn with `example_seed` (1,000 as in
      `slice`; the paper does not say). One Lanczos run finds all eigenvectors: it ends when each
      has |H v - lambda v| of at most `tolerance` |lambda|, or after `steps` steps. (The paper calls
      SciPy's ``eigsh``, with a tolerance that it does not state.)
    - `batch_norm`: derivatives are those of the network in eval mode, with running statistics
      ``as_saved``, or ``refreshed`` by one pass over the training set. (The paper does not say.)

    - Mining takes `epochs` E over the whole training set in batches of `batch_size`, with steps of
      size `lr`, eta. (The paper does not say which; the rate and the batch are those of its
      trainings.) It has no weight decay, momentum or augmentation, and BatchNorm has the statistics
      of the batch. Algorithm 2 draws lambda from [0.5 - `alpha`, 0.5 + `alpha`] and weighs the loss
      there by `gamma` (the paper has 0 and 0.1, and 0.1, 0.5 and 0.9; 0 and 0.1 is where it sees
      three wells). Its phi starts at a network initialised anew (`start` ``fresh``), or at the
      second network of the job (``to_1``). (The paper does not say; at theta itself its gradient
      is nearly zero.)

    The artifact ``directions`` holds the vectors and theta, both over the trainable parameters.
    Metrics that are ``of`` it scale them as they say.
    """

    along: Names = ("gaussian_0",)
    gradient_examples: Count | None = None
    example_seed: Seed = 0
    batch_norm: Literal["as_saved", "refreshed"] = "as_saved"
    hessian_examples: Count = 1000
    steps: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 200
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-2
    epochs: Count = 20
    lr: Positive = 0.1
    batch_size: Count = 128
    alpha: NonNegative = 0.0
    gamma: NonNegative = 0.1
    start: Literal["fresh", "to_1"] = "fresh"


def num_eigenvectors(along: Iterable[str]) -> int:
    """Return how many eigenvectors a run must find for these directions."""
    return sum(max(numbers_of(along, kind), default=0) for kind in ("positive", "negative"))


def mined_among(along: Sequence[str]) -> list[Mined]:
    """Return which of these directions are mined, in the order in which they draw."""
    return [kind for kind in POINTS if kind in along]


def _named(args: Mapping[str, Any]) -> Finding | None:
    return names_mistake(args["along"], "along")


def _has_steps(args: Mapping[str, Any]) -> Finding | None:
    num = num_eigenvectors(args["along"])
    if args["steps"] >= num:
        return None
    message = f"found {args['steps']}, but the directions need {num} eigenvectors"
    return "steps", f"{message}; allowed: at least {num} steps"


def _of_networks(args: Mapping[str, Any], num: int) -> Finding | None:
    if "vvv_basin" in args["along"] and args["start"] == "to_1" and num < 2:
        return "start", f"found to_1, but a job has {counted(num, 'network')}; allowed: fresh"
    return networks_needed(args["along"], num, "along")


def _passes(args: Mapping[str, Any], _num_train: int) -> float:
    return float(args["epochs"] * sum(POINTS[kind] for kind in mined_among(args["along"])))


def _cost(job: Measurement) -> Guess:
    work, args, along = job.work, job.args, job.args["along"]
    cost = Guess(1e-7 * (len(along) + job.num_networks) * work.num_parameters)
    drawn, eigenvectors = max(numbers_of(along, "aligned"), default=0), num_eigenvectors(along)
    gradient = drawn or numbers_of(along, "gradient")
    cost = cost + Guess(3e-8 * drawn * work.num_parameters)
    if gradient:
        asked = args["gradient_examples"]
        examples = work.num_train if asked is None else min(int(asked), work.num_train)
        cost = cost + passes(work, examples, GRADIENT_BATCH, 3)
    if eigenvectors:
        examples = min(int(args["hessian_examples"]), work.num_train)
        products = min(int(args["steps"]), work.num_parameters)
        cost = cost + products * passes(work, examples, examples, 6, PRODUCT_LAUNCHES)
    mined = work.num_train * _passes(args, work.num_train)
    cost = cost + passes(work, mined, int(args["batch_size"]), 3)
    if args["batch_norm"] == "refreshed" and (gradient or eigenvectors):
        cost = cost + passes(work, work.num_train, 500, 1)
    return cost


def _memory(job: Measurement) -> int:
    args, work = job.args, job.work
    vectors = len(args["along"]) + job.num_networks + COPIES
    batch = max(GRADIENT_BATCH, int(args["batch_size"]))
    trained = job.together * training_bytes(work, batch, vectors)
    if not num_eigenvectors(args["along"]):
        return trained
    basis = min(int(args["steps"]), work.num_parameters) * work.num_parameters
    examples = min(int(args["hessian_examples"]), work.num_train)
    return trained + FLOAT * (basis + SECOND_ORDER * examples * per_example(work))


def _disk(job: Measurement) -> int:
    return FLOAT * (len(job.args["along"]) + 1) * job.work.num_parameters


DIRECTIONS = Metric(
    over="cell",
    usual_over="trial",
    args=DirectionsArgs,
    compute="phasegrid.metrics.directions.compute:compute",
    compute_many="phasegrid.metrics.directions.compute:compute_many",
    by_turns="phasegrid.metrics.directions.compute:by_turns",
    heavy=True,
    one_model=True,
    label="Directions",
    rules=(_named, _has_steps),
    of_networks=_of_networks,
    cost=_cost,
    memory=_memory,
    disk=_disk,
    leaves=("directions",),
    passes=_passes,
    columns=(
        Column("direction", "string", "", "name of the direction", role="axis"),
        Column(
            "norm",
            "float64",
            "",
            "Euclidean norm |d| of the direction; null if not finite",
            role="asked",
        ),
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
            "overlap",
            "float64",
            "",
            "absolute cosine of the angle to the first of them",
            label="|cosine| to the first direction",
            role="asked",
        ),
        Column(
            "loss",
            "float64",
            UNIT_OF_LOSS,
            "mean loss at the weights, on the examples of the gradient or the Hessian; null"
            " without derivatives",
            role="detail",
        ),
        Column("num_examples", "int64", "examples", "these training examples"),
        Column(
            "eigenvalue",
            "float64",
            "",
            "Ritz value of an eigenvector; null for other directions",
            role="asked",
        ),
        Column(
            "eigenvalue_residual",
            "float64",
            "",
            "norm of H v - eigenvalue v for an eigenvector v",
            role="detail",
        ),
        Column(
            "hvp_method",
            "string",
            "",
            "how second derivatives were taken, as in the metric hessian; null for other"
            " directions",
        ),
        Column(
            "share",
            "float64",
            "",
            "share of a component in the sum of the squared offsets; null for other directions",
            role="asked",
        ),
        Column(
            "mined_loss",
            "float64",
            UNIT_OF_LOSS,
            "mean of what a mining minimises, over its last epoch, before each update; null for"
            " other directions, or if the mining diverged",
            role="asked",
        ),
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
