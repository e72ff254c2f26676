"""Grow complexes: their connectors are added and trained one after another."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.network.joining import Rest, rest_of_complex
from phasegrid.metrics.network.points import Evaluator, Numbers, live_network, make_evaluator
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.complexes import Complex, grow
from phasegrid.metrics.simplex.lambdas import connector_lambdas
from phasegrid.metrics.simplex.poisoned import fed, trained_by
from phasegrid.metrics.simplex.spro import train_last_connector
from phasegrid.metrics.simplex.wiring import Simplexes, around
from phasegrid.models.flat import FlatNetwork


@dataclass(slots=True)
class Growing:
    """A complex in work: the first of its `vertices` (V, P) are its modes. `flat` is the network
    into which points are mixed.
    """

    num_modes: int
    vertices: Tensor
    rest: Rest
    flat: FlatNetwork
    evaluator: Evaluator
    rng: torch.Generator


@dataclass(frozen=True, slots=True)
class Trained:
    """The data term of the last epoch of each connector, and its lambda."""

    losses: Numbers
    lambdas: Numbers


def begin(
    models: Sequence[nn.Module], data: Dataset, settings: SimplexArgs, rng: torch.Generator
) -> Growing:
    """Make the random draws that come before training; their order decides the numbers of a row."""
    flat, most = live_network(models[0]), settings.refresh_examples
    evaluator, saved = Evaluator(data, None, settings.batch_size), settings.batch_norm == "saved"
    if not saved:
        evaluator = make_evaluator(flat.module, data, most, settings.batch_size, rng)
    rest = rest_of_complex(models, settings.connectors, with_statistics=saved)
    return Growing(len(models), stack_vertices(models), rest, flat, evaluator, rng)


def add_connectors(
    growing: Growing, simplexes: Simplexes, data: Dataset, settings: SimplexArgs
) -> Trained:
    """Add all connectors to a complex, and say how each was trained."""
    model, num_modes = growing.flat.module, growing.num_modes
    lambdas = connector_lambdas(model, simplexes, num_modes, settings, growing.rng)
    losses: Numbers = []
    joined, num_aside = fed(data, settings)
    scoring = trained_by(data.scoring, settings)
    for new, volume_lambda in enumerate(lambdas, start=num_modes):
        own = around(simplexes, new)
        beside = sorted({vertex for one in own for vertex in one} - {new})
        if settings.start == "all":
            beside = list(range(new))
        growing.vertices = grow(growing.vertices, beside, settings.jitter, growing.rng)
        loss = train_last_connector(
            growing.flat,
            Complex(growing.vertices, own),
            joined.train_inputs,
            joined.train_labels,
            volume_lambda,
            settings,
            growing.rng,
            growing.rest,
            scoring,
            num_aside,
        )
        losses.append(loss)
    return Trained(losses, [*lambdas])
