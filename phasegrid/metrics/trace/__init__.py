"""The way of a training: learning rate, error and distance from its start, at each network along
it.
"""

from dataclasses import dataclass

from phasegrid.declare import UNIT_OF_LOSS, Column, Metric, list_column
from phasegrid.estimates import evaluation_bytes, passes


@dataclass(frozen=True, slots=True)
class TraceArgs:
    """The networks are those of the request, in its order: ``over: trajectory, at: checkpoints``.
    There are no arguments.
    """


TRACE = Metric(
    over="cell",
    args=TraceArgs,
    compute="phasegrid.metrics.trace.compute:compute",
    moments=True,
    min_trials=2,
    one_model=True,
    label="Trace",
    cost=lambda job: passes(job.work, job.num_networks * job.work.num_test, 500, 1),
    memory=lambda job: evaluation_bytes(job.work),
    columns=(
        list_column("after_epochs", "epochs done when each network was left", "", "epochs"),
        list_column("lr", "learning rate of the update before each network", "", "learning rate"),
        list_column("test_loss", "mean test loss of each network, eval mode", UNIT_OF_LOSS),
        list_column("test_error_percent", "test error of each network", "%"),
        list_column(
            "distance", "Euclidean distance from the first network", "", "distance from the start"
        ),
        list_column(
            "steps", "Euclidean distance of each network but the first from the one before", ""
        ),
        Column(
            "mean_step",
            "float64",
            "",
            "mean distance between networks that follow each other",
            label="distance between consecutive networks",
            quantity="trace_mean_step",
        ),
        Column(
            "mean_test_error_percent",
            "float64",
            "%",
            "mean test error of the networks",
            better="lower",
            role="asked",
            quantity="trace_mean_test_error",
        ),
    ),
)
