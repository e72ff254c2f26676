"""What networks answer over the plane of two inputs, and where they disagree."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, Column, DatasetFacts, Finding, Metric, list_column
from phasegrid.estimates import FLOAT, Guess, Measurement, evaluation_bytes, passes
from phasegrid.metrics.ranges import Count, NonNegative, Positive
from phasegrid.metrics.refreshing import nothing_refreshed

READS = ("curve", "complex")


@dataclass(frozen=True, slots=True)
class DecisionArgs:
    """The probability of class `label` over the plane of the two inputs of a data set, for a few
    networks and for the mean of many (Benton et al. 2021, section 5.3).

    The networks are the trials of a cell, as saved; or, ``of`` a simplex or an espro, `points`
    networks drawn uniformly from its complex; or, ``of`` a mode connectivity, `points` networks
    equally spaced in t on its curve, ends included. BatchNorm statistics are then recomputed from
    at most `refresh_examples` training examples. The few are `samples` of them, evenly spread in
    their order.

    The plane is the bounding rectangle of the training points, extended by `margin` of its width
    and height on every side, on a grid of `grid` x `grid` points, in the units in which the data
    set gives its inputs (``dataset.normalize``). `mean`: the field of all networks is the mean of
    their probabilities, or the probability of their mean logits, as in the published notebook.
    A place is away from the data if no training point is within `radius` (null: the median
    distance of a training point from its nearest other; of an even number of points the lower of
    the two in the middle).
    """

    points: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 100
    samples: Annotated[int, Field(ge=2, le=1000)] = 5
    grid: Annotated[int, Field(ge=2, le=1000)] = 51
    margin: NonNegative = 0.2
    radius: Positive | None = None
    label: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 1
    mean: Literal["probabilities", "logits"] = "probabilities"
    refresh_examples: Count | None = None


def _cost(job: Measurement) -> Guess:
    work, args = job.work, job.args
    examples = int(args["grid"]) ** 2 + work.num_train * (1 + job.num_sources)
    return _num_networks(job) * passes(work, examples, 500, 1)


def _num_networks(job: Measurement) -> int:
    return int(job.args["points"]) if job.num_sources else job.num_networks


def _memory(job: Measurement) -> int:
    answers = (int(job.args["grid"]) ** 2 + job.work.num_train) * job.work.num_classes
    return 4 * FLOAT * _num_networks(job) * answers + evaluation_bytes(job.work)


def _fits(
    args: Mapping[str, Any], _recipe: Mapping[str, Any], facts: DatasetFacts
) -> Finding | None:
    if facts.input_shape != (2,):
        return "", (
            f"one input has the shape {facts.input_shape}; decision needs two numbers, as in"
            " dataset: {name: two_spirals}"
        )
    if args["label"] < facts.num_classes:
        return None
    return "label", f"found {args['label']}; allowed: 0 to {facts.num_classes - 1}"


def _percent(name: str, doc: str, label: str) -> Column:
    return Column(
        name, "float64", "%", doc, label=label, limits=(0, 100), quantity=f"decision_{name}"
    )


DECISION = Metric(
    over="cell",
    args=DecisionArgs,
    compute="phasegrid.metrics.decision.compute:compute",
    min_trials=2,
    label="Decision",
    takes="classification",
    reads=READS,
    source_rules={"complex": nothing_refreshed},
    of_only={"points": READS, "refresh_examples": READS},
    cost=_cost,
    memory=_memory,
    fits=_fits,
    columns=(
        list_column("axis", "first input of the points of the grid, ascending"),
        list_column("axis_2", "second input of these"),
        Column(
            "field",
            "list<list<float64>>",
            "",
            "probability of the class by all networks, entry [j][i] at (axis[i], axis_2[j])",
            label="probability of the ensemble",
        ),
        Column(
            "sample_fields",
            "list<list<float64>>",
            "",
            "the same by each of the few networks: entry [s] holds the lines of its grid in order",
        ),
        list_column("train_x", "first input of the training points (at most 1000)"),
        list_column("train_y", "second input of these"),
        list_column("train_labels", "their classes"),
        _percent(
            "train_agreement_percent",
            "share of training points on which the few networks all choose one class",
            "agreement on training points",
        ),
        _percent(
            "away_disagreement_percent",
            "share of the plane away from the data in which the few do not all choose one class",
            "disagreement away from data",
        ),
        _percent(
            "near_disagreement_percent",
            "the same of the rest of the plane",
            "disagreement near data",
        ),
        _percent(
            "train_error_percent", "training error of all networks' mean", "training error of all"
        ),
        Column(
            "roughness",
            "float64",
            "",
            "mean square of the gradient of the probability by all networks, by differences on the"
            " grid, per square unit of the inputs",
            label="roughness of the mean field",
            quantity="decision_roughness",
            better="lower",
            scale="log",
        ),
        Column(
            "sample_roughness",
            "float64",
            "",
            "the same of each of the few networks, their mean",
            label="roughness of single fields",
            quantity="decision_sample_roughness",
            scale="log",
        ),
        Column("radius", "float64", "", "within which a place is near the data", role="detail"),
        Column("away_percent", "float64", "%", "share of the plane away from it", role="detail"),
        Column("num_networks", "int64", "", "all networks", role="detail"),
        Column("num_samples", "int64", "", "the few", role="detail"),
        Column("label", "int64", "", "the class", role="detail"),
    ),
)
