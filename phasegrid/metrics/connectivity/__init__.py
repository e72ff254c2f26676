"""Mode connectivity: a curve of low loss between two trained networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Finding, Metric, later
from phasegrid.estimates import (
    FLOAT,
    Guess,
    Measurement,
    evaluation,
    evaluation_bytes,
    passes,
    training_bytes,
)
from phasegrid.metrics.augmentation import Augment, augments_images
from phasegrid.metrics.ranges import Count, Momentum, NonNegative, Positive
from phasegrid.train.collectors import moments_numbers


def _not_a_segment(value: object) -> object:
    """Refuse the name of what is no shape of a curve, but a curve without bends."""
    if value in ("segment", "straight", "linear", "line"):
        allowed = "bezier, polychain or random_segment; bends: 0 is the straight segment"
        raise PydanticCustomError("segment", allowed)
    return value


@dataclass(frozen=True, slots=True)
class ConnectivityArgs:
    """A curve of low loss between two trials (Garipov et al. 2018), trained as in Yang et al. 2021,
    appendix B.

    - `curve`: ``bezier``, ``polychain``, or ``random_segment``, the segment from the first network
      in a uniformly random direction, as long as the distance of the two (Garipov et al. 2018,
      figure 4). It has no bends, nothing is trained, and its far end is not the second network.
    - Training: SGD with momentum 0.9 and batches of 128 on loss + weight_decay/2 |gamma(t)|^2, with
      one t ~ U[0, 1] per batch. `lr` is constant for the first half of `epochs`, falls linearly to
      1% until 90%, and then stays there.
    - `bends`: the number of free control points (1: a quadratic Bezier curve; 0: the straight
      segment, without training). `init`: bends start evenly on the segment (``linear``, Garipov
      et al.), all at its middle (``midpoint``) or from random networks (``random``, the published
      code of Yang et al.).
    - `points`: the number of equally spaced t at which the curve is evaluated. BatchNorm statistics
      are recomputed at every point from at most `refresh_examples` training examples.
    - `updates`: train for this many updates instead of `epochs`, in ceil(updates / batches per
      epoch) passes of which the last is cut short, so that a curve on a tenth of the data is
      trained as long as one on all of it. The learning rate has the same shape over the updates.
      (In the published code of Yang et al. the number of epochs grows as 1 / fraction; its 50
      epochs of 50,000 images in batches of 128 are 19,550 updates.)
    - `precision`: of the training's passes, as in a recipe: ``fp32``, ``tf32`` (float32 with TF32
      products on a GPU) or ``bf16`` (autocast). Points are evaluated in float32 whatever it is.
    - `augment`: of the images on which the curve is trained, as in ``dataset``, whatever the
      networks themselves were trained on; fresh draws every epoch. `refresh_augment`: of the images
      that recompute BatchNorm's statistics, drawn once. (The published code of Garipov et al. 2018
      augments both.) Losses and errors are always those of the images as they are.

    For sentence pairs the training loss is the mean over the scored target tokens of a batch of
    `batch_size` pairs; losses of a set are means over its tokens, and errors are token errors in
    percent. Yang et al. then use `mode_connectivity_loss` (section 2: the training error is used
    for all experiments but machine translation). Running text is read as `batch_size` parallel
    streams, and the state of a recurrent network is carried from batch to batch, both while the
    curve is trained and at each of its points.

    With `swag_from_epoch` the moments of the bends are collected after that epoch and each later
    one, with the last `swag_rank` deviations (SWAG, Maddox et al. 2019, over bends: Benton et al.
    2021, section 4.1), and stored as the artifact ``curve_moments`` for the metric ``swag_curves``.

    Losses are reported plain, and regularised by weight_decay/2 |gamma(t)|^2 with the squared norm
    over all trainable parameters, those of BatchNorm included: what is minimised. (``plane.py`` and
    ``connect.py`` of Garipov et al.'s published code add norms that are not squared.) Dropout is
    off while a curve is trained. (The published code trains curves of VGG with dropout on.)

    The trained bends are stored as the artifact ``curve``, for metrics that are ``of`` this one; so
    is the far end of a random segment.
    """

    curve: Annotated[
        Literal["bezier", "polychain", "random_segment"], BeforeValidator(_not_a_segment)
    ] = "bezier"
    bends: Annotated[int, Field(ge=0, le=64)] = 1
    epochs: Count = 50
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    batch_size: Count = 128
    weight_decay: NonNegative = 5e-4
    init: Literal["linear", "midpoint", "random"] = "linear"
    points: Annotated[int, Field(ge=3, le=MAX_COUNT)] = 5
    refresh_examples: Count | None = None
    updates: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = later(None)
    precision: Literal["fp32", "tf32", "bf16"] = later("fp32")
    augment: Augment = later("none")
    refresh_augment: Augment = later("none")
    swag_from_epoch: Count | None = later(None)
    swag_rank: Annotated[int, Field(ge=2, le=1000)] = later(20)


def _cost(job: Measurement) -> Guess:
    work, args = job.work, job.args
    batch, updates = int(args["batch_size"]), args.get("updates")
    trained = work.num_train * int(args["epochs"]) if updates is None else updates * batch
    trained *= bool(args["bends"])
    return passes(work, trained, batch, 3) + 2 * int(args["points"]) * evaluation(work)


def _passes(args: Mapping[str, Any], num_train: int) -> float:
    if not args["bends"]:
        return 0.0
    updates = args["updates"]
    return float(args["epochs"]) if updates is None else updates * args["batch_size"] / num_train


def _memory(job: Measurement) -> int:
    curve = training_bytes(job.work, float(job.args["batch_size"]))
    return job.together * curve + evaluation_bytes(job.work)


def _disk(job: Measurement) -> int:
    bends = int(job.args["bends"])
    num_stored = bends + int(job.args["curve"] == "random_segment")
    if job.args.get("swag_from_epoch") is not None:
        num_stored += bends * (1 + moments_numbers(int(job.args.get("swag_rank", 20))))
    return FLOAT * num_stored * job.work.num_parameters


def _no_bends_on_a_random_segment(args: Mapping[str, Any]) -> Finding | None:
    if args["curve"] != "random_segment" or args["bends"] == 0:
        return None
    return "bends", f"found {args['bends']}, but a random segment has no bends; write bends: 0"


def _collects_twice(args: Mapping[str, Any]) -> Finding | None:
    """Find moments of bends that are not trained, or are taken too late for a covariance."""
    first = args["swag_from_epoch"]
    if first is None:
        return None
    if args["bends"] == 0:
        return "swag_from_epoch", f"found {first}, but bends: 0; nothing is trained"
    if args["updates"] is None and first >= args["epochs"]:
        return "swag_from_epoch", (
            f"found {first} with epochs: {args['epochs']}; allowed: at most"
            f" {args['epochs'] - 1}, since a covariance needs the bends of two epochs"
        )
    return None


SUMMARISED: Mapping[str, tuple[str, str, bool]] = {
    "train_loss": ("training loss", UNIT_OF_LOSS, True),
    "train_regularised_loss": ("regularised loss", UNIT_OF_LOSS, False),
    "train_error_percent": ("training error", "%", False),
    "test_loss": ("test loss", UNIT_OF_LOSS, False),
    "test_regularised_loss": ("regularised test loss", UNIT_OF_LOSS, False),
    "test_error_percent": ("test error", "%", True),
    "train_perplexity": ("training perplexity", "", False),
    "valid_perplexity": ("validation perplexity", "", False),
    "test_perplexity": ("test perplexity", "", False),
}
"""The columns whose lists are summarised (`phasegrid.metrics.connectivity.along`), in words, with
their units, and whether the highest number and the mean along the curve are shown unasked.
"""


def _summaries(name: str) -> tuple[Column, ...]:
    called, unit, shown = SUMMARISED[name]
    kinds = {
        "min": (f"lowest {called} on the curve", "at the points of the curve", False),
        "max": (f"highest {called} on the curve", "at the points of the curve", shown),
        "int": (f"mean {called} on the curve", "uniform in length", shown),
        "mean": (f"mean {called} over t", "uniform in t", False),
        "min_end": (f"{called} of the better end", "the lower of the two ends", False),
        "max_end": (f"{called} of the worse end", "the higher of the two ends", False),
        "gap": (f"gap of the {called}", "highest on the curve minus the worse end", False),
    }
    return tuple(
        Column(
            f"{kind}_{name}",
            "float64",
            unit,
            f"{label}: {how}",
            label=label,
            better="lower",
            role="value" if is_shown else "asked",
            quantity=f"curve_{kind}_{name}",
        )
        for kind, (label, how, is_shown) in kinds.items()
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
    disk=_disk,
    rules=(_no_bends_on_a_random_segment, _collects_twice),
    fits=augments_images,
    leaves=("curve", "curve_moments"),
    passes=_passes,
    untypical={"bends": 0},
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
            "valid_perplexity",
            "list<float64>",
            "",
            "the same on the validation text; null without one",
        ),
        Column(
            "test_perplexity",
            "list<float64>",
            "",
            "exp of the test cross-entropy at each t; null but for running text",
        ),
        Column("squared_norm", "list<float64>", "", "|gamma(t)|^2 over all trainable parameters"),
        *(
            Column(
                f"{part}_regularised_loss",
                "list<float64>",
                UNIT_OF_LOSS,
                f"{part}_loss + weight_decay/2 squared_norm, at each t",
            )
            for part in ("train", "test")
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
        Column(
            "num_refreshed",
            "int64",
            "",
            "training examples that recompute BatchNorm's statistics at a point, in a random order"
            " drawn once for all points; null without BatchNorm",
        ),
        Column("refresh_batch_size", "int64", "", "their batch size"),
        Column("refresh_augmented", "bool", "", "whether they were augmented, once for all points"),
    ),
)
