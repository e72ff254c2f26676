"""The topology of the loss on a plane of Hessian eigenvectors: its minima, and the saddles between
them.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Metric
from phasegrid.estimates import Guess, Measurement, passes
from phasegrid.metrics.hessian import PRODUCT_LAUNCHES
from phasegrid.metrics.on_examples import (
    BATCH_NORM,
    LOSS,
    NUM_EXAMPLES,
    graph_bytes,
    num_used,
    sharpness,
)
from phasegrid.metrics.ranges import Count, Positive, Seed

STEPS = 40
"""Lanczos steps for the eigenvectors."""


@dataclass(frozen=True, slots=True)
class MergeTreeArgs:
    """The merge tree of sublevel sets of the loss on a grid w + a u_1 + b u_2, with u_1 and u_2 the
    eigenvectors of the two largest eigenvalues of the Hessian, scaled to the norm of w (Chen et al.
    2026, "Landscaper", for the measure; Edelsbrunner and Harer 2010, chapter VII, for persistence).

    - `points` on each axis, from -`radius` to `radius`. 41 as in their code; `radius` is our
      choice (their scaling leaves a much smaller plane).
    - `neighbours` of a point of the grid: 4 (theirs), or 8.
    - `least`: a minimum whose persistence is not more than this share of the range of the loss
      counts as noise, and is no minimum.
    - `examples`, drawn with `example_seed`, for eigenvectors and loss. `batch_norm`: ``as_saved``
      or ``refreshed``, as in the metric ``hessian``; statistics stay those at w.
    """

    points: Annotated[int, Field(ge=3, le=MAX_COUNT)] = 41
    radius: Positive = 1.0
    neighbours: Literal[4, 8] = 4
    least: Annotated[float, Field(ge=0, lt=1)] = 1e-5
    examples: Count = 200
    example_seed: Seed = 0
    batch_norm: Literal["as_saved", "refreshed"] = "as_saved"


def _cost(job: Measurement) -> Guess:
    num = num_used(job)
    grid = int(job.args["points"]) ** 2 * passes(job.work, num, 128, 1)
    return grid + STEPS * passes(job.work, num, num, 6, PRODUCT_LAUNCHES)


MERGE_TREE = Metric(
    over="trial",
    args=MergeTreeArgs,
    compute="phasegrid.metrics.merge_tree.compute:compute",
    label="Merge tree",
    cost=_cost,
    recorded=True,
    memory=lambda job: graph_bytes(job, STEPS),
    columns=(
        sharpness(
            "smad",
            "saddle-minimum average distance: mean height of a minimum's first saddle above it; 0"
            " for a single minimum",
            "saddle-minimum average distance",
            UNIT_OF_LOSS,
            scale="linear",
        ),
        Column(
            "smad_of_range",
            "float64",
            "",
            "the same, divided by the range of the loss on the grid",
            label="saddle-minimum average distance, of the range",
            better="lower",
            role="asked",
        ),
        Column("num_minima", "int64", "", "minima of the loss on the grid", label="minima"),
        Column(
            "total_persistence",
            "float64",
            UNIT_OF_LOSS,
            "sum over minima but the lowest of the height of the saddle at which it joins a lower"
            " one",
            label="total persistence",
            better="lower",
            role="asked",
        ),
        Column("births", "list<float64>", UNIT_OF_LOSS, "loss at the minima, ascending"),
        Column(
            "deaths",
            "list<float64>",
            UNIT_OF_LOSS,
            "loss at which each joins a lower one; null for the lowest",
        ),
        Column("axis", "list<float64>", "", "coordinates along either eigenvector, ascending"),
        Column(
            "train_loss",
            "list<list<float64>>",
            UNIT_OF_LOSS,
            "mean loss, entry [j][i] at w + axis[i] u_1 + axis[j] u_2; null where it is not finite",
        ),
        Column("eigenvalues", "list<float64>", "", "Ritz values of the eigenvectors"),
        Column("eigenvalue_residuals", "list<float64>", "", "|H v - lambda v| of the unit ones"),
        LOSS,
        NUM_EXAMPLES,
        BATCH_NORM,
    ),
)
