"""Angles between random directions and stored ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, Column, Finding, Metric
from phasegrid.estimates import COPIES, FLOAT, Guess, Measurement, passes, training_bytes
from phasegrid.metrics.directions.names import unknown_direction
from phasegrid.metrics.ranges import Count


@dataclass(frozen=True, slots=True)
class AnglesArgs:
    """Angles between `num` random directions and each of those that a ``directions`` left (Xu et
    al. 2024, section 2.3 and figure 5).

    - `along`: the directions that are compared with, by name; null for all.
    - `draw`: ``gaussian``, from N(0, I). ``gradient``: the negative gradients of the loss at the
      weights on batches of `batch_size` training examples, each drawn without replacement, the
      network in eval mode. (The paper does not say how large its batches are.)
    """

    num: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 100
    along: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    draw: Literal["gaussian", "gradient"] = "gaussian"
    batch_size: Count = 128


def _stored(args: Mapping[str, Any], source: Mapping[str, Any]) -> Finding | None:
    found = unknown_direction(args["along"] or (), source)
    return None if found is None else ("along", found)


def _cost(job: Measurement) -> Guess:
    work, num = job.work, int(job.args["num"])
    cost = Guess(3e-8 * num * work.num_parameters)
    if job.args["draw"] == "gaussian":
        return cost
    batch = min(int(job.args["batch_size"]), work.num_train)
    return cost + num * passes(work, batch, batch, 3)


def _memory(job: Measurement) -> int:
    if job.args["draw"] == "gradient":
        return training_bytes(job.work, int(job.args["batch_size"]), 2 * COPIES)
    return FLOAT * 2 * COPIES * job.work.num_parameters


ANGLES = Metric(
    over="artifact",
    args=AnglesArgs,
    compute="phasegrid.metrics.angles.compute:compute",
    one_model=True,
    label="Angles",
    reads=("directions",),
    source_rules={"directions": _stored},
    cost=_cost,
    memory=_memory,
    columns=(
        Column("direction", "string", "", "name of the stored direction", role="axis"),
        Column("angles", "list<float64>", "degrees", "angle of each random direction to it"),
        Column(
            "mean_angle",
            "float64",
            "degrees",
            "mean of these angles",
            label="mean angle to random directions",
            stderr="mean_angle_stderr",
        ),
        Column("mean_angle_stderr", "float64", "degrees", "its standard error", role="detail"),
        Column(
            "std_angle", "float64", "degrees", "their deviation", role="asked", quantity="angle_std"
        ),
        Column(
            "theory_std",
            "float64",
            "degrees",
            "the deviation of Gaussian directions, (180 / pi) / sqrt(P), exact for large P; null"
            " for others",
            role="asked",
            quantity="angle_theory_std",
        ),
        Column(
            "smallest_angle",
            "float64",
            "degrees",
            "the smallest of them",
            role="asked",
            quantity="angle_smallest",
        ),
        Column("num_parameters", "int64", "", "P, dimension of the directions"),
    ),
)
