"""What the declarations of metrics of one network on some training examples have in common."""

from typing import Literal, TypeAlias

from phasegrid.declare import UNIT_OF_LOSS, Column
from phasegrid.estimates import (
    COPIES,
    FLOAT,
    Guess,
    Measurement,
    passes,
    per_example,
    training_bytes,
)
from phasegrid.metrics.hessian import SECOND_ORDER

BatchNormPolicy: TypeAlias = Literal["as_saved", "refreshed", "train"]
"""Running statistics as saved, or refreshed by one pass over the training set, or those of the
batch. They are those at the trained weights, also where weights move.
"""

GRADIENT_BATCH = 128
"""Examples that pass at a time where a gradient of a network's weights is taken."""

LOSS = Column(
    "loss",
    "float64",
    UNIT_OF_LOSS,
    "the loss on these examples at the trained weights, under the BatchNorm policy",
    role="detail",
)
NUM_EXAMPLES = Column(
    "num_examples", "int64", "examples", "training examples (or sentence pairs) used"
)
BATCH_NORM = Column("batch_norm", "string", "", "BatchNorm policy used; null without BatchNorm")


def sharpness(
    name: str,
    doc: str,
    label: str,
    unit: str = "",
    stderr: str = "",
    scale: Literal["linear", "log"] = "log",
) -> Column:
    """Declare a number that is larger where the loss is sharper: less is better, as the papers on
    sharpness say.
    """
    return Column(
        name,
        "float64",
        unit,
        doc,
        label=label,
        better="lower",
        scale=scale,
        colours="magma_r",
        stderr=stderr,
    )


def stderr_of(name: str, doc: str, unit: str = "") -> Column:
    """Declare the standard error of the column `name`."""
    return Column(f"{name}_stderr", "float64", unit, doc, role="detail")


def num_used(job: Measurement) -> int:
    """Return how many of the asked training examples there are."""
    return min(int(job.args["examples"]), job.work.num_train)


def gradients(job: Measurement, count: float, examples: int | None = None) -> Guess:
    """Return the cost of `count` gradients on `examples` (default: those asked for)."""
    num = num_used(job) if examples is None else examples
    return count * passes(job.work, num, min(num, GRADIENT_BATCH), 3)


def losses(job: Measurement, count: float) -> Guess:
    """Return the cost of `count` evaluations of the loss on the examples that are asked for."""
    num = num_used(job)
    return count * passes(job.work, num, min(num, GRADIENT_BATCH), 1)


def gradient_bytes(job: Measurement, vectors: int = 0) -> int:
    """Return the bytes of gradients batch by batch, beside `vectors` of parameter length."""
    batch = num_used(job) if job.args["batch_norm"] == "train" else GRADIENT_BATCH
    return training_bytes(job.work, batch, COPIES + vectors)


def graph_bytes(job: Measurement, vectors: int, examples: int | None = None) -> int:
    """Return the bytes of a kept graph of gradients on `examples` (default: those asked for),
    beside `vectors` of parameter length.
    """
    num = num_used(job) if examples is None else examples
    held = FLOAT * (COPIES + vectors) * job.work.num_parameters
    return held + FLOAT * SECOND_ORDER * num * per_example(job.work)
