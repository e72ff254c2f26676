"""Find directions through trained weights theta, and how they lie to each other.

Nothing is scaled: a Gaussian direction has the norm of its draw, the gradient its own, and theta +
to_1 is the second network. So 1 on a line along a direction means what it means there, and what
looks along it decides on a scale (Xu et al. 2024, section 2.1). A pair of directions is nearly
orthogonal if one of them is random: the cosine has mean 0 and standard deviation 1 / sqrt(P).

A mining that diverges is a result: its numbers are null, and no directions are stored.

Letters: D directions, P trainable parameters.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.directions import DirectionsArgs, Mined, mined_among
from phasegrid.metrics.directions.finding import Found, Row, find_untrained
from phasegrid.metrics.directions.mining import (
    Mining,
    begin,
    choose_joint,
    live_alone,
    live_together,
    mine,
)
from phasegrid.metrics.directions.scaling import cosines, inner_products
from phasegrid.metrics.measured import Measured
from phasegrid.metrics.network.points import finite_or_none
from phasegrid.metrics.network.turns import Work, finished
from phasegrid.models.weights import num_parameters
from phasegrid.seeding import nothing_drawn

_KNOWN: tuple[str, ...] = (
    "loss",
    "num_examples",
    "batch_norm",
    "eigenvalue",
    "eigenvalue_residual",
    "hvp_method",
    "share",
    "mined_loss",
)
"""Columns that only some directions have."""


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Measured:
    """Find directions through the first of `models`; `args` are the fields of `DirectionsArgs`.

    Return a row for each, and the artifact ``directions``: `directions` (D, P) in the dtype of the
    weights, and `weights` (P,). Deterministic in `rng` and the models, which are not changed.

    Raises:
        MetricError: if the networks differ in architecture, there are fewer than a direction needs,
            nothing is trainable, there are fewer parameters than eigenvectors, or the loss at the
            weights is not finite.
    """
    with nothing_drawn("directions", data.train_inputs.device):
        return finished(by_turns(models, data, rng, **args))


def by_turns(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Work[Measured]:
    """Do `compute`; yield after every update of a mining."""
    settings = DirectionsArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    found = _begin(models, data, settings, rng)
    for kind in mined_among(settings.along):
        mining = begin(kind, models, settings, rng)
        live = live_alone(kind, models[0], data, settings.batch_size)
        yield from mine(kind, [mining], live, data, settings)
        _note(found, kind, mining)
    return _measured(found, settings)


def compute_many(
    models: Sequence[nn.Module],
    groups: Sequence[tuple[int, ...]],
    data: Dataset,
    rngs: Sequence[torch.Generator],
    **args: object,
) -> list[Measured] | None:
    """Find the directions of several jobs, `groups` of indices into `models`, each with its
    generator; return what they measure in order.

    Minings through networks of one architecture train as one stack if that is faster. A row then
    agrees with that of `compute` to rounding, which grows over many updates. Return None if none
    would: a joint computation gains nothing then.

    Raises:
        MetricError: as `compute`, for any of the jobs.
    """
    settings = DirectionsArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    firsts, kinds = [models[group[0]] for group in groups], mined_among(settings.along)
    stacks = {
        kind: [
            stack
            for stack in choose_joint(kind, firsts, data, settings.batch_size)
            if len(stack[1]) > 1
        ]
        for kind in kinds
    }
    if not any(stacks.values()):
        return None
    jobs = [[models[index] for index in group] for group in groups]
    every = [_begin(job, data, settings, rng) for job, rng in zip(jobs, rngs, strict=True)]
    for kind in kinds:
        minings = [begin(kind, job, settings, rng) for job, rng in zip(jobs, rngs, strict=True)]
        left = set(range(len(jobs)))
        for blueprint, members in stacks[kind]:
            live = live_together(kind, blueprint, [firsts[i] for i in members], data)
            finished(mine(kind, [minings[i] for i in members], live, data, settings))
            left -= {*members}
        for i in sorted(left):
            live = live_alone(kind, firsts[i], data, settings.batch_size)
            finished(mine(kind, [minings[i]], live, data, settings))
        for found, mining in zip(every, minings, strict=True):
            _note(found, kind, mining)
    return [_measured(found, settings) for found in every]


def _begin(
    models: Sequence[nn.Module], data: Dataset, settings: DirectionsArgs, rng: torch.Generator
) -> Found:
    if not models or num_parameters(models[0]) == 0:
        raise MetricError("directions go through the trainable parameters of a network; got none")
    return find_untrained(models, data, settings, rng)


def _note(found: Found, kind: Mined, mining: Mining) -> None:
    found.vectors[kind] = mining.epsilon
    found.known[kind] = {"mined_loss": mining.loss}


def _measured(found: Found, settings: DirectionsArgs) -> Measured:
    """Return the rows, and the artifact if all directions are finite."""
    directions = torch.stack([found.vectors[name].to(found.weights) for name in settings.along])
    left = {"directions": {"directions": directions, "weights": found.weights}}
    is_sound = bool(directions.isfinite().all())
    return Measured(_rows(directions, found, settings), left if is_sound else {})


def _rows(directions: Tensor, found: Found, settings: DirectionsArgs) -> list[Row]:
    products, num = inner_products(directions), directions.shape[1]
    squares, angles = products.diagonal().tolist(), cosines(products).tolist()
    common: Row = {
        "against": list(settings.along),
        "num_parameters": num,
        "weight_norm": float(torch.linalg.vector_norm(found.weights, dtype=torch.float64)),
        **dict.fromkeys(_KNOWN),
    }
    return [
        {
            **common,
            "direction": name,
            "norm": finite_or_none(math.sqrt(square)),
            "log_density": finite_or_none(-square / 2 - num / 2 * math.log(2 * math.pi)),
            "cosine": [finite_or_none(cosine) for cosine in row],
            "overlap": finite_or_none(abs(row[0])),
            **found.known.get(name, {}),
        }
        for name, square, row in zip(settings.along, squares, angles, strict=True)
    ]
