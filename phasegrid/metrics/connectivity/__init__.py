"""Mode connectivity: a curve of low loss between two trained networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Metric, later
from phasegrid.estimates import (
    FLOAT,
    Guess,
    Measurement,
    evaluation,
    evaluation_bytes,
    passes,
    training_bytes,
)
from phasegrid.metrics.ranges import Count, Momentum, NonNegative, Positive


@dataclass(frozen=True, slots=True)
class ConnectivityArgs:
    """A curve of low loss between two trials (Garipov et al. 2018), trained as in Yang et al. 2021,
    appendix B.

    - Training: SGD with momentum 0.9 and batches of 128 on loss + weight_decay/2 |gamma(t)|^2, with
      one t ~ U[0, 1] per batch. `lr` is constant for the first half of `epochs`, falls linearly to
      1% until 90%, and then stays there.
    - `bends`: the number of free control points (1: a quadratic Bezier curve; 0: the straight
      segment, without training). `init`: bends start on the segment (``linear``, Garipov et al.) or
      from random networks (``random``, the published code of Yang et al.).
    - `points`: the number of equally spaced t at which the curve is evaluated. BatchNorm statistics
      are recomputed at every point from at most `refresh_examples` training examples.
    - `updates`: train for this many updates instead of `epochs`, in ceil(updates / batches per
      epoch) passes of which the last is cut short, so that a curve on a tenth of the data is
      trained as long as one on all of it. The learning rate has the same shape over the updates.
      (In the published code of Yang et al. the number of epochs grows as 1 / fraction; its 50
      epochs of 50,000 images in batches of 128 are 19,550 updates.)
    - `precision`: of the training's passes, as in a recipe: ``fp32``, ``tf32`` (float32 with TF32
      products on a GPU) or ``bf16`` (autocast). Points are evaluated in float32 whatever it is.

    For sentence pairs the training loss is the mean over the scored target tokens of a batch of
    `batch_size` pairs; losses of a set are means over its tokens, and errors are token errors in
    percent. Yang et al. then use `mode_connectivity_loss` (section 2: the training error is used
    for all experiments but machine translation). Running text is read as `batch_size` parallel
    streams, and the state of a recurrent network is carried from batch to batch, both while the
    curve is trained and at each of its points.

    The trained bends are stored as the artifact ``curve``, for metrics that are ``of`` this one.
    """

    curve: Literal["bezier", "polychain"] = "bezier"
    bends: Annotated[int, Field(ge=0, le=64)] = 1
    epochs: Count = 50
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    batch_size: Count = 128
    weight_decay: NonNegative = 5e-4
    init: Literal["linear", "random"] = "linear"
    points: Annotated[int, Field(ge=3, le=MAX_COUNT)] = 5
    refresh_examples: Count | None = None
    updates: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = later(None)
    precision: Literal["fp32", "tf32", "bf16"] = later("fp32")


def _cost(job: Measurement) -> Guess:
    work, args = job.work, job.args
    batch, updates = int(args["batch_size"]), args.get("updates")
    trained = work.num_train * int(args["epochs"]) if updates is None else updates * batch
    trained *= bool(args["bends"])
    return passes(work, trained, batch, 3) + 2 * int(args["points"]) * evaluation(work)


def _memory(job: Measurement) -> int:
    curve = training_bytes(job.work, float(job.args["batch_size"]))
    return job.together * curve + evaluation_bytes(job.work)


SUMMARISED: Mapping[str, tuple[str, str, bool]] = {
    "train_loss": ("training loss", UNIT_OF_LOSS, True),
    "train_error_percent": ("training error", "%", False),
    "test_loss": ("test loss", UNIT_OF_LOSS, False),
    "test_error_percent": ("test error", "%", True),
}
"""The columns whose lists are summarised (`phasegrid.metrics.connectivity.along`), in words, with
their units, and whether the highest number and the mean along the curve are shown.
"""


def _summaries(name: str) -> tuple[Column, ...]:
    called, unit, shown = SUMMARISED[name]
    kinds = {
        "min": ("lowest", "at the points of the curve", False),
        "max": ("highest", "at the points of the curve", shown),
        "int": ("mean", "along the curve, uniform in length", shown),
        "mean": ("mean", "along the curve, uniform in t", False),
    }
    return tuple(
        Column(
            f"{kind}_{name}",
            "float64",
            unit,
            f"{word} {called} {where}",
            label=f"{word} {called} on the curve",
            better="lower",
            role="value" if is_shown else "detail",
            quantity=f"curve_{kind}_{name}",
        )
        for kind, (word, where, is_shown) in kinds.items()
    )


CONNECTIVITY = Metric(
    over="pair",
    args=ConnectivityArgs,
    compute="phasegrid.metrics.connectivity.compute:compute",
    compute_many="phasegrid.metrics.connectivity.compute:compute_many",
    by_turns="phasegrid.metrics.connectivity.compute:by_turns",
    pairs="first",
    min_trials=2,
    one_model=True,
    heavy=True,
    label="Mode connectivity",
    cost=_cost,
    recorded=True,
    memory=_memory,
    disk=lambda job: FLOAT * int(job.args["bends"]) * job.work.num_parameters,
    leaves=("curve",),
    version=2,  # 1 let rounding choose between the ends where they are the farthest points
    columns=(
        Column(
            "mode_connectivity",
            "float64",
            "points",
            "mean end error minus error at t*, training set; < 0 is a barrier",
            label="mode connectivity",
            centre=0.0,
        ),
        Column(
            "t_star",
            "float64",
            "",
            "where the training error is farthest from the mean of the ends; 0 where that is the"
            " ends themselves",
            role="detail",
        ),
        Column(
            "mode_connectivity_loss",
            "float64",
            UNIT_OF_LOSS,
            "the same on training loss, the paper's way for machine translation",
            label="mode connectivity, loss",
            centre=0.0,
        ),
        Column(
            "mode_connectivity_test",
            "float64",
            "points",
            "the same on test error",
            label="mode connectivity, test",
            centre=0.0,
        ),
        Column("t", "list<float64>", "", "points of the curve evaluated"),
        Column("train_loss", "list<float64>", UNIT_OF_LOSS, "loss at each t"),
        Column("train_error_percent", "list<float64>", "%", "training error at each t"),
        Column("test_loss", "list<float64>", UNIT_OF_LOSS, "loss at each t"),
        Column("test_error_percent", "list<float64>", "%", "test error at each t"),
        Column(
            "train_perplexity",
            "list<float64>",
            "",
            "exp of the training cross-entropy at each t; null but for running text",
        ),
        Column(
            "test_perplexity",
            "list<float64>",
            "",
            "exp of the test cross-entropy at each t; null but for running text",
        ),
        *chain.from_iterable(map(_summaries, SUMMARISED)),
        Column(
            "length",
            "float64",
            "",
            "length of the curve in weight space, by chords between 101 points",
            role="detail",
        ),
        Column(
            "length_ratio",
            "float64",
            "",
            "length over the distance of the ends",
            label="curve length ratio",
            colours="cividis_r",
        ),
        Column(
            "end_residual_percent",
            "float64",
            "points",
            "largest |error at an end of the curve - error of the checkpoint as saved|: what"
            " refreshing BatchNorm changed (0 without BatchNorm)",
            label="end residual of BatchNorm",
            colours="cividis_r",
            quantity="end_residual",
            idle="without BatchNorm",
        ),
        Column(
            "final_curve_loss",
            "float64",
            UNIT_OF_LOSS,
            "regularised loss of the last epoch of curve training",
            role="detail",
        ),
        Column("num_bends", "int64", "", "free control points"),
    ),
)
