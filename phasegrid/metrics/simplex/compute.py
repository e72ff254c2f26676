"""Mode-connecting volumes: the largest simplicial complex of low loss through trained networks.

SPRO (Benton et al. 2021, section 3.2, eq. 1) joins modes w_i by connectors theta_j, trained one
after another, into a complex K. Reported are log V(K) and the expected loss over K, with its
standard error over sampled points. The volume is that of all simplexes, and the data term is a mean
over the samples, so `volume_lambda` is that of eq. 1. (The published code takes squared volumes,
only the first simplex, and a sum over the samples.)

Untrained tensors that differ between the modes (frozen parameters, buffers) are mixed by the same
coefficients; a connector has the mean of the modes (`phasegrid.metrics.network.joining`).

A connector whose training diverges is a result: numbers that need it are null, and no complex is
stored.
"""

from collections.abc import Sequence

import torch
from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.measured import Measured
from phasegrid.metrics.network.turns import finished
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.complexes import members_of
from phasegrid.metrics.simplex.growing import add_connectors, begin
from phasegrid.metrics.simplex.measuring import measure
from phasegrid.metrics.simplex.wiring import (
    Simplexes,
    modes_mistake,
    simplexes_of,
    wiring_mistake,
)
from phasegrid.seeding import nothing_drawn


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Measured:
    """Train the connectors of a complex through `models` and measure it; `args` are the fields of
    `SimplexArgs`.

    Deterministic in `rng` and the models. The models are not changed.

    Raises:
        MetricError: if there are fewer than two models, if they differ in architecture or in
            integer tensors, if the length of ``volume_lambda`` is not the number of connectors, if
            ``wiring`` does not fit the models and connectors, or if networks draw in eval mode.
    """
    if len(models) < 2:
        raise MetricError(
            f"simplex joins at least 2 models, got {len(models)}; around one, use espro"
        )
    settings = SimplexArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    with nothing_drawn("simplex", data.train_inputs.device):
        return _measured(models, data, rng, settings)


def compute_espro(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Measured:
    """Grow a simplex from one model and measure it; `args` are the fields of `EsproArgs`.

    Deterministic in `rng` and the model. The model is not changed.

    Raises:
        MetricError: if there is not one model, or as `compute`.
    """
    if len(models) != 1:
        raise MetricError(f"espro grows a simplex from one model, got {len(models)}")
    settings = SimplexArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    with nothing_drawn("espro", data.train_inputs.device):
        return _measured(models, data, rng, settings)


def _measured(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, settings: SimplexArgs
) -> Measured:
    """Return the row of a complex with trained connectors, and these as an artifact if they are
    finite.
    """
    simplexes = _simplexes(len(models), settings)
    growing = begin(models, data, settings, rng)
    trained = add_connectors(growing, simplexes, data, settings)
    row = finished(measure(growing, simplexes, settings))
    row |= {"connector_losses": trained.losses, "volume_lambdas": trained.lambdas}
    connectors = growing.vertices[growing.num_modes :].clone()
    left = {"connectors": connectors, "simplexes": members_of(simplexes)}
    return Measured(row, {"complex": left} if bool(connectors.isfinite().all()) else {})


def _simplexes(num_modes: int, settings: SimplexArgs) -> Simplexes:
    """Return the simplexes of a complex.

    Raises:
        MetricError: if the wiring has a mistake.
    """
    mistake = wiring_mistake(settings.wiring, settings.connectors)
    mistake = mistake or modes_mistake(settings.wiring, num_modes)
    if mistake is not None:
        raise MetricError(f"simplex: {mistake[0]}: {mistake[1]}")
    return simplexes_of(settings.wiring, num_modes, settings.connectors)
