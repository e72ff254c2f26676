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
from phasegrid.metrics.network.turns import Work, finished
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.complexes import members_of
from phasegrid.metrics.simplex.growing import (
    Growing,
    Trained,
    add_connectors,
    begin,
    choose_joint,
    live_networks,
    stacked,
)
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
    with nothing_drawn("simplex", data.train_inputs.device):
        return finished(by_turns(models, data, rng, **args))


def by_turns(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Work[Measured]:
    """Do `compute`; yield after every update and every point."""
    if len(models) < 2:
        raise MetricError(
            f"simplex joins at least 2 models, got {len(models)}; around one, use espro"
        )
    return (yield from _alone(models, data, rng, **args))


def compute_espro(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Measured:
    """Grow a simplex from one model and measure it; `args` are the fields of `EsproArgs`.

    Deterministic in `rng` and the model. The model is not changed.

    Raises:
        MetricError: if there is not one model, or as `compute`.
    """
    with nothing_drawn("espro", data.train_inputs.device):
        return finished(espro_by_turns(models, data, rng, **args))


def espro_by_turns(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Work[Measured]:
    """Do `compute_espro`; yield after every update and every point."""
    _require_one(len(models))
    return (yield from _alone(models, data, rng, **args))


def espro_many(
    models: Sequence[nn.Module],
    groups: Sequence[tuple[int, ...]],
    data: Dataset,
    rngs: Sequence[torch.Generator],
    **args: object,
) -> list[Measured] | None:
    """Do `compute_espro` for several models, each a group of one index into `models`, with its
    generator; return their rows in order.

    Networks of one architecture train as one stack if that is faster. A row then agrees with that
    of `compute_espro` to rounding, which grows over many updates. The others train one after
    another. Return None if all would: a joint computation gains nothing then. (Points are evaluated
    one after another: their batches are large enough to keep the device busy.)

    Raises:
        MetricError: as `compute_espro`, for any of the models.
    """
    for group in groups:
        _require_one(len(group))
    settings = SimplexArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    modes = [models[group[0]] for group in groups]
    simplexes, found = _simplexes(1, settings), dict[int, Measured]()
    for blueprint, members in choose_joint(modes, data, settings):
        growing = [begin([modes[i]], data, settings, rngs[i]) for i in members]
        live = stacked(blueprint, growing, data, settings)
        trained = finished(add_connectors(growing, simplexes, live, data, settings))
        for i, one, how in zip(members, growing, trained, strict=True):
            found[i] = finished(_measured(one, simplexes, how, settings))
    if not found:
        return None
    return [
        found[i] if i in found else compute_espro([mode], data, rngs[i], **args)
        for i, mode in enumerate(modes)
    ]


def _require_one(num: int) -> None:
    if num != 1:
        raise MetricError(f"espro grows a simplex from one model, got {num}")


def _alone(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Work[Measured]:
    settings = SimplexArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    simplexes, growing = _simplexes(len(models), settings), begin(models, data, settings, rng)
    live = live_networks(growing, data, settings)
    (trained,) = yield from add_connectors([growing], simplexes, live, data, settings)
    return (yield from _measured(growing, simplexes, trained, settings))


def _measured(
    growing: Growing, simplexes: Simplexes, trained: Trained, settings: SimplexArgs
) -> Work[Measured]:
    """Return the row of a complex with trained connectors, and these as an artifact if they are
    finite.
    """
    row = yield from measure(growing, simplexes, settings)
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
