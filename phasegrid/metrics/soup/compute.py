"""The mean of the weights of several networks, as one network (Wortsman et al. 2022).

theta = (1/k) sum_i theta_i over the k networks in the soup. Tensors that differ between networks
but do not train are averaged likewise; statistics of BatchNorm are estimated anew. The mean is in
float64, then in the networks' dtype.

Letters: M networks, k of them in the soup, P parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.network.joining import Rest, rest_of
from phasegrid.metrics.network.matching import aligned
from phasegrid.metrics.network.passes import Passes
from phasegrid.metrics.network.points import (
    Evaluator,
    Row,
    live_network,
    losses_and_errors,
    make_evaluator,
)
from phasegrid.metrics.soup import SoupArgs
from phasegrid.models.evaluation import Evaluation, evaluate
from phasegrid.models.flat import FlatNetwork
from phasegrid.seeding import nothing_drawn


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Row:
    """Measure the soup of `models`; `args` are the fields of `SoupArgs`.

    Deterministic in `rng` and the models. The models are not changed.

    Raises:
        MetricError: if there are not two models of one architecture, their channels cannot be
            matched, or a greedy soup finds no examples kept aside.
    """
    settings = SoupArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    if settings.recipe == "greedy" and not len(data.aside_labels):
        raise MetricError(
            "soup: found recipe: greedy, but no examples are kept aside; allowed: uniform, or"
            " dataset.aside with a share of the training set"
        )
    with nothing_drawn("soup", data.train_inputs.device):
        return _row(models, data, rng, settings)


def _row(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, settings: SoupArgs
) -> Row:
    networks = list(models)
    if settings.align == "weights":
        first, others = models[0], models[1:]
        networks[1:] = [aligned(each, first, data.train_inputs, rng)[0] for each in others]
    pot = _fill_pot(networks, data, rng, settings)
    chosen = list(range(len(networks)))
    if settings.recipe == "greedy":
        chosen = _greedy(pot, networks, data)
    pot.average(chosen)
    row: Row = {}
    for name, inputs, labels in (
        ("train", data.train_inputs, data.train_labels),
        ("test", data.test_inputs, data.test_labels),
    ):
        own = [evaluate(model, inputs, labels, data.scoring) for model in models]
        row |= _numbers(name, pot.passes.evaluate(inputs, labels), own)
    mean, soup = row["mean_test_error_percent"], row["test_error_percent"]
    gain = mean - soup if isinstance(mean, float) and isinstance(soup, float) else None
    return {
        **row,
        "test_gain": gain,
        "num_networks": len(networks),
        "num_averaged": len(chosen),
    }


@dataclass(frozen=True, slots=True)
class _Pot:
    """The weights (M, P) of networks, their untrained tensors, and the network that becomes the
    mean of some.
    """

    weights: Tensor
    rest: Rest
    flat: FlatNetwork
    passes: Passes
    evaluator: Evaluator

    def average(self, chosen: Sequence[int]) -> None:
        """Set the network to the mean of the `chosen` ones, and refresh its BatchNorm."""
        shares = torch.zeros(len(self.weights), dtype=torch.float64)
        shares[list(chosen)] = 1 / len(chosen)
        mean = self.weights[list(chosen)].double().mean(dim=0)
        self.flat.assign(mean.to(self.weights))
        self.rest.place(self.flat, shares)
        if self.evaluator.refresh_inputs is not None:
            self.passes.refresh(self.evaluator.refresh_inputs, self.evaluator.batch_size)


def _fill_pot(
    networks: Sequence[nn.Module], data: Dataset, rng: torch.Generator, settings: SoupArgs
) -> _Pot:
    if len(networks) < 2:
        raise MetricError(f"soup: got {len(networks)} networks, need at least 2")
    weights, rest, flat = stack_vertices(networks), rest_of(networks), live_network(networks[0])
    evaluator = make_evaluator(
        flat.module, data, settings.refresh_examples, settings.batch_size, rng
    )
    return _Pot(weights, rest, flat, Passes(flat, data.scoring), evaluator)


def _greedy(pot: _Pot, networks: Sequence[nn.Module], data: Dataset) -> list[int]:
    """Choose networks by their error on the examples kept aside (Wortsman et al. 2022, recipe 1);
    of equal ones the first comes first.
    """
    aside = data.aside_inputs, data.aside_labels
    errors = [evaluate(each, *aside, data.scoring).error_percent for each in networks]
    chosen: list[int] = []
    least = float("inf")
    for index in sorted(range(len(networks)), key=lambda i: errors[i]):
        pot.average([*chosen, index])
        error = pot.passes.evaluate(*aside).error_percent
        if error <= least:
            chosen.append(index)
            least = error
    return chosen


def _numbers(name: str, soup: Evaluation, own: Sequence[Evaluation]) -> Row:
    (loss,), (error,) = losses_and_errors([soup])
    losses, errors = losses_and_errors(own)
    return {
        f"{name}_loss": loss,
        f"{name}_error_percent": error,
        f"mean_{name}_loss": _mean(losses),
        f"mean_{name}_error_percent": _mean(errors),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if len(present) == len(values) else None
