"""The loss on a line or a plane through trained weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Finding, Metric
from phasegrid.estimates import Guess, Measurement, evaluation_bytes, passes
from phasegrid.metrics.ranges import Count, Positive, Seed


@dataclass(frozen=True, slots=True)
class SliceArgs:
    """The loss at w + a d_1 (+ b d_2) around the trained weights w, with a and b from -`radius` to
    `radius` (Li et al. 2018, section 3).

    - `directions`: ``random`` (Gaussian), or ``hessian``: eigenvectors of the largest eigenvalues
      of the Hessian on the same `examples`, from at least 40 Lanczos steps (Xu et al. 2024, section
      2.4). The sign of an eigenvector has no meaning. ``weights``: the weights themselves, so that
      a line is the loss at (1 + a) w (Yenphraphai et al., "Mode-connecting volumes for sharp
      modes", section 4.1; their code has a from -0.2 to 0.2).
    - `normalize`: ``filter`` scales every filter of a direction to the norm of the network's
      filter, and sets biases and BatchNorm parameters (all that has one dimension) to zero (Li et
      al. 2018, section 4, and their published code with ``ignore=biasbn``). ``none`` scales the
      whole direction to the norm of w (Xu et al. 2024, section 2.1). ``auto``: ``filter`` for
      random directions, ``none`` for others, which filter normalisation would turn into other
      directions (the weights into those without biases and BatchNorm parameters).
    - `dimensions`: 1, a line, or 2, a plane. `points` on each axis: 41 as in Xu et al. 2024,
      section 2.2, for a line (their code is not published; Li et al. publish commands with 51).
      With an odd number, w itself is on the grid. Both papers use `radius` 1.
    - `batch_norm`: running statistics ``as_saved`` (the published code of Li et al.), or
      ``refreshed`` at every point by one pass over `refresh_examples` training examples, the same
      at every point and for every trial (the default of Xu et al. 2024). A refreshed slice shows
      the loss with statistics that fit the weights; a saved one includes the cost of statistics
      that do not.
    - `examples`: training examples for the loss, drawn with `example_seed`, the same for every
      trial; null for all. (Li et al. use all; Xu et al. do not say; 1,000 is our choice.) ``test:
      true`` also measures as many examples of the test set.
    - `precision`: ``fp32``, or ``bf16`` for convolutions and products in bfloat16 (autocast;
      weights are still mixed in float32 and the loss is summed in float64).

    For sentence pairs the loss is the mean token cross-entropy, the error is the token error, and a
    "filter" of an embedding is the vector of one word.
    """

    directions: Literal["random", "hessian", "weights"] = "random"
    normalize: Literal["auto", "filter", "none"] = "auto"
    dimensions: Literal[1, 2] = 2
    points: Annotated[int, Field(ge=3, le=MAX_COUNT)] = 41
    radius: Positive = 1.0
    batch_norm: Literal["as_saved", "refreshed"] = "as_saved"
    refresh_examples: Count = 500
    examples: Count | None = 1000
    example_seed: Seed = 0
    test: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"


def _weights_span_a_line(args: Mapping[str, Any]) -> Finding | None:
    if args["directions"] != "weights" or args["dimensions"] == 1:
        return None
    message = "with directions: weights, which are one direction; allowed: 1"
    return "dimensions", f"found {args['dimensions']} {message}"


_GRID = (
    "entry [j][i] at w + axis[i] d_1 + axis_2[j] d_2 (one row for a line); null where it is not"
    " finite"
)


def _cost(job: Measurement) -> Guess:
    work, args = job.work, job.args
    asked = work.num_train if args["examples"] is None else int(args["examples"])
    tested = min(asked, work.num_test) if args["test"] else 0
    point = passes(work, min(asked, work.num_train) + tested, 128, 1)
    if args["batch_norm"] == "refreshed":
        point = point + passes(work, min(int(args["refresh_examples"]), work.num_train), 500, 1)
    points: int = int(args["points"]) ** int(args["dimensions"])
    return points * point


SLICE = Metric(
    over="trial",
    args=SliceArgs,
    compute="phasegrid.metrics.slice.compute:compute",
    label="Slice",
    rules=(_weights_span_a_line,),
    cost=_cost,
    recorded=True,
    memory=lambda job: evaluation_bytes(job.work),
    columns=(
        Column(
            "axis",
            "list<float64>",
            "",
            "coordinates along the first direction, ascending",
            label="along direction 1",
        ),
        Column("axis_2", "list<float64>", "", "coordinates along the second; null for a line"),
        Column(
            "train_loss",
            "list<list<float64>>",
            UNIT_OF_LOSS,
            f"mean loss, {_GRID}",
            label="training loss",
        ),
        Column(
            "train_error_percent",
            "list<list<float64>>",
            "%",
            "error on the same examples, likewise",
            label="training error",
        ),
        Column(
            "test_loss",
            "list<list<float64>>",
            UNIT_OF_LOSS,
            "on the test set; null unless requested",
        ),
        Column("test_error_percent", "list<list<float64>>", "%", "likewise"),
        Column(
            "centre_loss",
            "float64",
            UNIT_OF_LOSS,
            "training loss at the trained weights",
            role="detail",
        ),
        Column(
            "num_stationary_points",
            "int64",
            "",
            "inner points of a line above or below both neighbours (Xu et al. 2024, appendix A.3);"
            " null for a plane, or with nulls",
        ),
        Column("direction_norms", "list<float64>", "", "Euclidean norm of each direction"),
        Column(
            "weight_norm",
            "float64",
            "",
            "Euclidean norm of the trainable parameters w",
            role="detail",
        ),
        Column(
            "direction_cosine",
            "float64",
            "",
            "cosine of the angle between the directions as used; null for a line",
            role="detail",
        ),
        Column(
            "eigenvalues",
            "list<float64>",
            "",
            "Ritz values of the unit eigenvectors before scaling; null for other directions",
        ),
        Column(
            "eigenvalue_residuals", "list<float64>", "", "|H v - lambda v| of these eigenvectors"
        ),
        Column(
            "hvp_method",
            "string",
            "",
            "how second derivatives were taken, as in the metric hessian; null for other"
            " directions",
        ),
        Column("num_examples", "int64", "examples", "training examples (or sentence pairs) used"),
        Column("num_test_examples", "int64", "examples", "test examples used; null for none"),
        Column("normalize", "string", "", "normalisation used: filter or none"),
        Column("batch_norm", "string", "", "BatchNorm policy used; null without BatchNorm"),
    ),
)
