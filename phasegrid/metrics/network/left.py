"""Networks at points of what another measurement left: a curve, or a complex.

Letters: V vertices, P parameters, N points.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.network.points import Evaluator, live_network, make_evaluator
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.weights import refresh_batch_norm


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
    refresh_examples: int | None,
    rng: torch.Generator,
) -> Iterator[nn.Module]:
    """Yield the network at each of the points with `coefficients` (N, V), made like `model`. Its
    BatchNorm statistics are those of at most `refresh_examples` training examples (None: all),
    which `rng` draws; or mixed ones, if the measurement had ``batch_norm: saved``.
    """
    evaluator = left_evaluator(left.args, model, data, refresh_examples, rng)
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
    refresh_examples: int | None,
    rng: torch.Generator,
) -> Evaluator:
    """Return what measures points of what a measurement with the arguments `args` leaves: it
    recomputes statistics of BatchNorm in networks like `module` from at most `refresh_examples`
    training examples (None: all), which `rng` draws; with ``batch_norm: saved`` it leaves them.
    """
    batch_size = int(args["batch_size"])
    if args.get("batch_norm") == "saved":
        return Evaluator(data, None, batch_size)
    return make_evaluator(module, data, refresh_examples, batch_size, rng)
