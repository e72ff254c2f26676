"""A simplex of low loss grown from one trained network."""

from dataclasses import dataclass, replace

from phasegrid.declare import Metric
from phasegrid.metrics.ranges import Count, NonNegative, Positive
from phasegrid.metrics.simplex import cost, disk, fits, memory, trained_passes
from phasegrid.metrics.simplex.arguments import CONNECTOR_RULES, ConnectorArgs, Lambda
from phasegrid.metrics.simplex.columns import COLUMNS


@dataclass(frozen=True, slots=True)
class EsproArgs(ConnectorArgs):
    """A simplex (w, theta_0, ..., theta_(connectors-1)) of low loss around one trial (ESPRO; Benton
    et al. 2021, section 5.1, eq. 3), trained and measured as in `simplex`, for ensembles of its
    points (``predictions`` and ``ensemble`` that are ``of`` this one).

    The defaults are those of the published code: three connectors, 10 epochs each (20 on
    CIFAR-100), from a learning rate of 0.01, with weight decay 5e-4 on the connector and a volume
    lambda of 1e-6, which is to have the `volume_schedule` ``code``: there the simplex of freshly
    initialised networks has as many vertices as that of the connector. (Its first connector starts
    at the network itself. Here it starts `jitter` times the norm of the weights away from it.)
    """

    connectors: Count = 3
    lr: Positive = 0.01
    weight_decay: NonNegative = 5e-4
    volume_lambda: Lambda = 1e-6


ESPRO = Metric(
    over="trial",
    args=EsproArgs,
    compute="phasegrid.metrics.simplex.compute:compute_espro",
    compute_many="phasegrid.metrics.simplex.compute:espro_many",
    by_turns="phasegrid.metrics.simplex.compute:espro_by_turns",
    heavy=True,
    label="ESPRO simplex",
    rules=CONNECTOR_RULES,
    fits=fits,
    cost=cost,
    recorded=True,
    memory=memory,
    disk=disk,
    leaves=("complex",),
    passes=trained_passes,
    columns=tuple(
        replace(
            column,
            label=column.label.replace("simplex", "ESPRO simplex"),
            quantity=f"espro_{column.name}",
        )
        for column in COLUMNS
    ),
)
