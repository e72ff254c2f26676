"""Minima and saddles of the loss on a plane of Hessian eigenvectors, and their saddle-minimum
average distance (Chen et al. 2026, "Landscaper: understanding loss landscapes through
multi-dimensional topological analysis").

    f(a, b) = L(w + |w| (a u_1 + b u_2)),   SMAD = (1/m) sum_i (f(s_i) - f(m_i))

over the m minima m_i of f on a grid, s_i the saddle at which the component of m_i in the sublevel
sets first joins another: the leaf edges of the merge tree, as in their code. A quadratic bowl has
one minimum and SMAD 0. A grid shows the topology of the plane between its points only, and a plane
that of two of P dimensions.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.directions.eigenvectors import top_eigenvectors
from phasegrid.metrics.hessian.operator import with_right_products
from phasegrid.metrics.merge_tree import MergeTreeArgs
from phasegrid.metrics.merge_tree.tree import Grid, minima_of, saddle_minimum_average_distance
from phasegrid.metrics.network.losses import policy_of, prepared
from phasegrid.metrics.network.points import finite_or_none
from phasegrid.metrics.slice.compute import symmetric_axis
from phasegrid.metrics.slice.evaluation import MovingNetwork, make_examples, measure_slice
from phasegrid.models.network_state import copy_network
from phasegrid.models.weights import parameters_vector

Numbers = Sequence[float | None]
Row = dict[str, float | int | str | Numbers | Sequence[Numbers] | None]


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Row:
    """Measure the merge tree of one model; `args` are the fields of `MergeTreeArgs`.

    Exact for the values on the grid. Deterministic in `rng`.

    Raises:
        MetricError: if there is not one model, it has fewer than two trainable parameters, its
            outputs have a wrong shape, or the loss at its weights is not finite.
    """
    settings = MergeTreeArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    module, inputs, labels = prepared(models, data, rng, settings, "merge_tree")
    loss, found = with_right_products(
        copy_network(module),  # the operator may change its layout
        inputs,
        labels,
        rng,
        lambda H: (H.loss, top_eigenvectors(H, 2, rng)),
        data.scoring,
    )
    weights = parameters_vector(module)
    directions = torch.linalg.vector_norm(weights) * found.vectors.to(weights)
    network = MovingNetwork(module)
    axis = symmetric_axis(settings.points, settings.radius)
    sets = [make_examples(network, inputs, labels, data.scoring)]
    network.settle()
    grid = measure_slice(network, directions, axis, sets)[0, :, :, 0].numpy()
    return {
        **_topology(grid, settings),
        "axis": axis,
        "train_loss": [[finite_or_none(value) for value in row] for row in grid.tolist()],
        "eigenvalues": found.eigenvalues,
        "eigenvalue_residuals": found.residuals,
        "loss": loss,
        "num_examples": len(labels),
        "batch_norm": policy_of(models[0], settings),
    }


def _topology(grid: Grid, settings: MergeTreeArgs) -> Row:
    finite = grid[np.isfinite(grid)]
    extent = float(finite.max() - finite.min())
    minima = minima_of(grid, settings.neighbours, settings.least * extent)
    smad = saddle_minimum_average_distance(minima)
    pairs = [m.death - m.birth for m in minima if math.isfinite(m.death)]
    return {
        "smad": smad,
        "smad_of_range": smad / extent if extent else 0.0,
        "num_minima": len(minima),
        "total_persistence": math.fsum(pairs),
        "births": [m.birth for m in minima],
        "deaths": [finite_or_none(m.death) for m in minima],
    }
