"""How high the loss rises on the straight segment between two trained networks."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Metric
from phasegrid.estimates import FLOAT, Guess, Measurement, evaluation, evaluation_bytes
from phasegrid.metrics.alignment import Align, align_needs_classification, matching_cost
from phasegrid.metrics.ranges import Count


@dataclass(frozen=True, slots=True)
class BarrierArgs:
    """The height of the barrier on the segment theta(t) = (1 - t) theta_0 + t theta_1 between two
    networks: max_t [L(t) - ((1 - t) L(0) + t L(1))] at `points` equally spaced t (Frankle et al.
    2020; Entezari et al. 2022), for loss and error on the training and the test set.

    - `batch_norm`: at each point, statistics of BatchNorm are recomputed from at most
      `refresh_examples` training examples (``refreshed``, also at the ends), or those of the two
      networks are interpolated as the weights are (``saved``).
    - `align`: ``weights`` first gives the hidden channels of the second network the order that
      brings its weights near those of the first (Ainsworth et al. 2023, algorithm 1). It computes
      the same function as before. For classification.

    Two networks are linearly connected if the error barrier is about 0; Frankle et al. call it
    instability, and count it as noise below 2 points.
    """

    points: Annotated[int, Field(ge=3, le=MAX_COUNT)] = 11
    align: Align = "none"
    batch_norm: Literal["saved", "refreshed"] = "refreshed"
    refresh_examples: Count | None = None
    batch_size: Count = 128


def _cost(job: Measurement) -> Guess:
    guess = 2 * int(job.args["points"]) * evaluation(job.work)
    return guess + matching_cost(job.work) if job.args["align"] == "weights" else guess


def _memory(job: Measurement) -> int:
    return 6 * FLOAT * job.work.num_parameters + evaluation_bytes(job.work)


def _barrier(name: str, called: str, unit: str) -> Column:
    return Column(
        f"{name}_barrier",
        "float64",
        unit,
        f"{called} on the segment above the line between the ends, at its highest",
        label=f"barrier of {called}",
        better="lower",
    )


BARRIER = Metric(
    over="pair",
    args=BarrierArgs,
    compute="phasegrid.metrics.barrier.compute:compute",
    pairs="all",
    min_trials=2,
    one_model=True,
    label="Barrier",
    cost=_cost,
    memory=_memory,
    fits=align_needs_classification,
    columns=(
        _barrier("train_loss", "training loss", UNIT_OF_LOSS),
        _barrier("train_error", "training error", "points"),
        _barrier("test_loss", "test loss", UNIT_OF_LOSS),
        _barrier("test_error", "test error", "points"),
        Column("t", "list<float64>", "", "points of the segment evaluated"),
        Column("train_loss", "list<float64>", UNIT_OF_LOSS, "loss at each t"),
        Column("train_error_percent", "list<float64>", "%", "training error at each t"),
        Column("test_loss", "list<float64>", UNIT_OF_LOSS, "loss at each t"),
        Column("test_error_percent", "list<float64>", "%", "test error at each t"),
        Column(
            "end_distance",
            "float64",
            "",
            "Euclidean distance of the ends, after alignment",
            label="distance of the ends",
            colours="cividis_r",
        ),
        Column(
            "moved_percent",
            "float64",
            "%",
            "share of the hidden channels of the second network that alignment moved; null without",
            role="detail",
        ),
    ),
)
