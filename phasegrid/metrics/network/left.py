"""Networks at points of what another measurement left: a curve, or a complex.

Letters: V vertices, P parameters, N points.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.augmentation import AsTrained
from phasegrid.metrics.network.points import Evaluator, live_network, make_evaluator
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.weights import refresh_batch_norm


@dataclass(frozen=True, slots=True)
class Refresh:
    """How statistics of BatchNorm are recomputed: from at most so many `examples` of the training
    set (None: all), and how these are augmented (None: as where the curve or the complex was
    trained, and not at all elsewhere).
    """

    examples: int | None = None
    augment: AsTrained = None


class Left(Protocol):
    """Vertices in weight space that a measurement with the arguments `args` has stored."""

    @property
    def vertices(self) -> Tensor:
        """The vertices (V, P)."""

    @property
    def args(self) -> Mapping[str, Any]:
        """The arguments of the measurement."""

    def place(self, flat: FlatNetwork, coefficients: Tensor) -> None:
        """Set a network to the mix of the vertices with `coefficients` (V,)."""


def networks_at(
    left: Left,
    coefficients: Tensor,
    model: nn.Module,
    data: Dataset,
    refresh: Refresh,
    rng: torch.Generator,
) -> Iterator[nn.Module]:
    """Yield the network at each of the points with `coefficients` (N, V), made like `model`. Its
    BatchNorm statistics are as in `left_evaluator`.
    """
    evaluator = left_evaluator(left.args, model, data, refresh, rng)
    for row in coefficients:
        flat = live_network(model)
        left.place(flat, row)
        if evaluator.refresh_inputs is not None:
            refresh_batch_norm(flat.module, evaluator.refresh_inputs, evaluator.batch_size)
        yield flat.module


def left_evaluator(
    args: Mapping[str, Any],
    module: nn.Module,
    data: Dataset,
    refresh: Refresh,
    rng: torch.Generator,
) -> Evaluator:
    """Return what measures points of what a measurement with the arguments `args` leaves: it
    recomputes statistics of BatchNorm in networks like `module`, from training examples that
    `rng` draws; with ``batch_norm: saved`` it leaves them.
    """
    batch_size = int(args["batch_size"])
    if args.get("batch_norm") == "saved":
        return Evaluator(data, None, batch_size)
    augment = refresh.augment or args.get("refresh_augment", "none")
    return make_evaluator(module, data, refresh.examples, batch_size, rng, augment)
