"""Mode-connecting volumes: a simplicial complex of low loss through trained networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, UNIT_OF_LOSS, Column, Finding, Metric
from phasegrid.estimates import (
    Guess,
    Measurement,
    evaluation,
    evaluation_bytes,
    passes,
    training_bytes,
)
from phasegrid.metrics.ranges import Count, Momentum, NonNegative, Positive


@dataclass(frozen=True, slots=True)
class SimplexArgs:
    """A simplicial complex of low loss through the trials of a cell (SPRO; Benton et al. 2021,
    section 4, eq. 1).

    - `connectors`: the number of points theta_j. They are trained one after another, with earlier
      ones fixed, on (1/samples) sum_h L(phi_h) - lambda_j log V(K), with phi_h uniform in a simplex
      of the complex K = {(w_i, theta_0..theta_j)}.
    - `sampling`: the simplex is chosen with probability proportional to its volume (``volume``:
      uniform on the complex, as in the paper) or uniformly (``simplex``: the published code).
    - `volume_lambda`: one number, or one per connector. `samples`: 5 in the paper and its code.
    - `modes`: how many of the cell's trials are joined, in order of seed (null: all).
    - `jitter`: a new connector starts at the mean of the vertices plus `jitter` times the rms edge
      in a random direction (at the mean itself V = 0).
    - `lr` falls along a cosine over the `epochs` of each connector, and `weight_decay` acts on the
      connector itself (both as in the published code).
    - `eval_samples`: expected losses are means over this many points of the complex, with standard
      errors. BatchNorm statistics are recomputed at each point from at most `refresh_examples`
      training examples.

    For sentence pairs L is the mean token cross-entropy over the scored target tokens of a batch of
    `batch_size` pairs (or of the set), and accuracy is token accuracy.
    """

    connectors: Count = 1
    samples: Count = 5
    epochs: Count = 10
    lr: Positive = 0.005
    momentum: Momentum = 0.9
    batch_size: Count = 128
    weight_decay: NonNegative = 0.0
    volume_lambda: Annotated[tuple[NonNegative, ...], Field(min_length=1)] | NonNegative = 1e-3
    sampling: Literal["volume", "simplex"] = "volume"
    jitter: Positive = 1e-2
    eval_samples: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 10
    refresh_examples: Count | None = None


def _lambda_of_each_connector(args: Mapping[str, Any]) -> Finding | None:
    given, connectors = args["volume_lambda"], args["connectors"]
    if isinstance(given, (list, tuple)) and len(given) != connectors:
        return (
            "volume_lambda",
            (
                f"found a list of {len(given)}; allowed: one number, or one per connector"
                f" ({connectors})"
            ),
        )
    return None


def _cost(job: Measurement) -> Guess:
    work, args = job.work, job.args
    trained = work.num_train * int(args["epochs"]) * int(args["samples"]) * int(args["connectors"])
    steps = passes(work, trained, int(args["batch_size"]), 3)
    return steps + 2 * int(args["eval_samples"]) * evaluation(work)


def _memory(job: Measurement) -> int:
    connector = training_bytes(job.work, float(job.args["batch_size"]))
    return job.together * connector + evaluation_bytes(job.work)


SIMPLEX = Metric(
    over="cell",
    args=SimplexArgs,
    compute="phasegrid.metrics.simplex.compute:compute",
    min_trials=2,
    one_model=True,
    heavy=True,
    label="Simplex volume",
    rules=(_lambda_of_each_connector,),
    cost=_cost,
    recorded=True,
    memory=_memory,
    columns=(
        Column(
            "log_volume",
            "float64",
            "",
            "log of the total volume of the complex (log-sum-exp over simplexes)",
            label="ln simplex volume",
            colours="magma_r",
        ),
        Column("log_volumes", "list<float64>", "", "log-volume of each simplex"),
        Column("dimension", "int64", "", "dimension of each simplex"),
        Column("num_modes", "int64", "", "trials joined"),
        Column("num_connectors", "int64", "", "connecting points"),
        Column(
            "expected_train_loss",
            "float64",
            UNIT_OF_LOSS,
            "mean loss over the complex, training set",
            label="simplex training loss",
            colours="magma_r",
            stderr="expected_train_loss_stderr",
        ),
        Column(
            "expected_train_loss_stderr",
            "float64",
            UNIT_OF_LOSS,
            "its standard error over sampled points",
            role="detail",
        ),
        Column(
            "expected_train_accuracy_percent",
            "float64",
            "%",
            "mean training accuracy over the complex",
            role="detail",
        ),
        Column(
            "expected_test_loss",
            "float64",
            UNIT_OF_LOSS,
            "mean loss over the complex, test set",
            label="simplex test loss",
            colours="magma_r",
            stderr="expected_test_loss_stderr",
        ),
        Column(
            "expected_test_loss_stderr",
            "float64",
            UNIT_OF_LOSS,
            "its standard error over sampled points",
            role="detail",
        ),
        Column(
            "expected_test_accuracy_percent",
            "float64",
            "%",
            "mean test accuracy over the complex",
            label="simplex test accuracy",
            colours="magma_r",
        ),
        Column(
            "connector_losses",
            "list<float64>",
            UNIT_OF_LOSS,
            "data term of the last epoch, per connector",
        ),
        Column("volume_lambdas", "list<float64>", "", "lambda_j used for each connector"),
        Column("num_samples", "int64", "", "points of the complex evaluated"),
    ),
)
