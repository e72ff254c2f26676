"""Grow complexes: their connectors are added and trained one after another, those of several
complexes of one shape together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.network.examples import Examples
from phasegrid.metrics.network.joining import Rest, rest_of_complex
from phasegrid.metrics.network.points import Evaluator, Numbers, live_network, make_evaluator
from phasegrid.metrics.network.stacking import choose_stacks, live_stack
from phasegrid.metrics.network.turns import Work
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.complexes import grow
from phasegrid.metrics.simplex.lambdas import connector_lambdas
from phasegrid.metrics.simplex.poisoned import fed, trained_by
from phasegrid.metrics.simplex.training import Live, train_last_vertices
from phasegrid.metrics.simplex.wiring import Simplexes, around
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.fused import Blueprint
from phasegrid.models.weights import has_batch_norm

MAX_NETWORKS = 40
"""The most networks of a stack. Measured per update of a complex with five points a batch, stacks
of 1, 2, 4, 8 and 16 complexes against points in turn: perceptron of width 16 2.2, 3.8, 5.3, 6.8 and
8.0 times as fast, of width 64 1.9, 2.4, 2.8, 3.4 and 3.5; small CNN of width 4 on 8x8 pixels 2.5,
3.0, 3.1, 3.7 and 3.4; ResNet18 of width 4, 2.2, 2.4, 2.2, 2.5 and 2.1.
"""


@dataclass(slots=True)
class Growing:
    """A complex in work: the first of its `vertices` (V, P) are its modes, of which `mode` is one.
    `flat` is the network into which points are mixed one by one.
    """

    mode: nn.Module
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
        size, augment = settings.batch_size, settings.refresh_augment
        evaluator = make_evaluator(flat.module, data, most, size, rng, augment)
    rest = rest_of_complex(models, settings.connectors, with_statistics=saved)
    return Growing(models[0], len(models), stack_vertices(models), rest, flat, evaluator, rng)


def live_networks(growing: Growing, data: Dataset, settings: SimplexArgs) -> Live:
    """Return the networks for the points of one complex: a stack if that is faster on a CPU, else
    one network. (On a GPU, updates are recorded, and which is faster was not measured.)
    """
    if growing.vertices.device.type == "cpu" and growing.rest.vertices is None:
        for blueprint, _ in _stacks([growing.mode], data, settings):
            return stacked(blueprint, [growing], data, settings)
    return Live(growing.flat, trained_by(data.scoring, settings), growing.rest)


def choose_joint(
    modes: Sequence[nn.Module], data: Dataset, settings: SimplexArgs
) -> list[tuple[Blueprint, list[int]]]:
    """Say which simplexes, each grown from a mode of its own, train faster together, two at
    least.
    """
    stacks = _stacks(modes, data, settings)
    return [(blueprint, members) for blueprint, members in stacks if len(members) > 1]


def stacked(
    blueprint: Blueprint, growing: Sequence[Growing], data: Dataset, settings: SimplexArgs
) -> Live:
    """Return a stack of networks for all points of some complexes."""
    live = live_stack(blueprint, [one.mode for one in growing], settings.samples)
    return Live(live, trained_by(data.scoring, settings))


def add_connectors(
    growing: Sequence[Growing],
    simplexes: Simplexes,
    live: Live,
    data: Dataset,
    settings: SimplexArgs,
) -> Work[list[Trained]]:
    """Add all connectors to complexes of one shape, and say how each was trained; yield after every
    update.
    """
    rngs, num_modes = [one.rng for one in growing], growing[0].num_modes
    lambdas = [
        connector_lambdas(one.flat.module, simplexes, num_modes, settings, one.rng)
        for one in growing
    ]
    trained = [Trained([], [*own]) for own in lambdas]
    joined, num_aside = fed(data, settings)
    examples = Examples(joined.train_inputs, joined.train_labels, data.padding, num_aside)
    for new, volume_lambdas in enumerate(zip(*lambdas, strict=True), start=num_modes):
        own = around(simplexes, new)
        beside = sorted({vertex for one in own for vertex in one} - {new})
        if settings.start == "all":
            beside = list(range(new))
        vertices = torch.stack(
            [grow(one.vertices, beside, settings.jitter, one.rng) for one in growing]
        )
        for one, of_one in zip(growing, vertices, strict=True):
            one.vertices = of_one
        losses = yield from train_last_vertices(
            live, vertices, own, examples, volume_lambdas, settings, rngs
        )
        for known, loss in zip(trained, losses, strict=True):
            known.losses.append(loss)
    return trained


def _stacks(
    modes: Sequence[nn.Module], data: Dataset, settings: SimplexArgs
) -> list[tuple[Blueprint, list[int]]]:
    if settings.batch_norm == "saved" and has_batch_norm(modes[0]):
        return []  # a stack has the statistics of the batch
    size, num = settings.batch_size, settings.samples
    return choose_stacks(modes, data, size, MAX_NETWORKS, num)
