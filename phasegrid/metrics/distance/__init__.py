"""How far apart two trained networks are in weight space."""

from dataclasses import dataclass

from phasegrid.declare import Column, Metric
from phasegrid.estimates import Guess, evaluation_bytes


@dataclass(frozen=True, slots=True)
class DistanceArgs:
    """The distance uses the trainable parameters only (BatchNorm's scale and shift included,
    running statistics not), as in the published code. There are no arguments.
    """


DISTANCE = Metric(
    over="pair",
    args=DistanceArgs,
    compute="phasegrid.metrics.distance.compute:compute",
    compute_many="phasegrid.metrics.distance.compute:compute_many",
    min_trials=2,
    one_model=True,
    label="Distance",
    cost=lambda job: Guess(1e-3, job.work.num_parameters * 1e-8),
    memory=lambda job: evaluation_bytes(job.work),
    columns=(
        Column(
            "l2_distance",
            "float64",
            "",
            "Euclidean distance between the trainable parameters",
            label=r"$\ell_2$ distance",
            colours="cividis_r",
        ),
        Column(
            "cosine_similarity",
            "float64",
            "",
            "cosine of the angle between the two parameter vectors",
            label="cosine of parameters",
        ),
        Column("num_parameters", "int64", "", "trainable parameters of one model"),
    ),
)
