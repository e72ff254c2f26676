"""The local learning coefficient (Lau et al. 2023; Watanabe 2013 for the temperature).

    lambda = n b (E_w L(w) - L(w*)),   b = 1 / ln n,   p(w) ~ exp(-n b L(w) - gamma |w - w*|^2 / 2)

sampled by stochastic gradient Langevin dynamics (Welling and Teh 2011):

    w <- w - (eps / 2) (n b grad L_B(w) + gamma (w - w*)) + sqrt(eps) xi,   xi ~ N(0, I).

For L(w) = sum_i h_i (w_i - w*_i)^2 / 2 the chain is Gaussian: with a_i = n b h_i + gamma its
variance is 1 / (a_i (1 - eps a_i / 4)), so lambda = sum_i (n b h_i / 2 a_i) / (1 - eps a_i / 4),
which tends to P / 2 as gamma and eps tend to 0. Letters: P trainable parameters, T steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.hessian.basis import rademacher
from phasegrid.metrics.hessian.lanczos import lanczos
from phasegrid.metrics.hessian.operator import HessianOperator, with_right_products
from phasegrid.metrics.hessian.preparing import as_parameters, draw_examples, prepare
from phasegrid.metrics.learning_coefficient import CURVED, STEPS, LearningCoefficientArgs
from phasegrid.metrics.network.losses import MovingLoss
from phasegrid.models.network_state import copy_network
from phasegrid.models.weights import has_batch_norm, num_parameters

Row = dict[str, float | int | str | list[float] | None]

RiseAndGradient = Callable[[Tensor], tuple[float, Tensor]]
"""From weights (P,) to the loss above that at w*, and the gradient (P,), of a batch that it
draws.
"""


@dataclass(frozen=True, slots=True)
class Langevin:
    """The dynamics: `heat` is n b, the others are eps and gamma."""

    heat: float
    step: float
    gamma: float


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Row:
    """Estimate the local learning coefficient of one model; `args` are the fields of
    `LearningCoefficientArgs`.

    An estimate, with its standard error over chains; the bias of SGLD (step size, noise of batches,
    chains too short) is not in it. Null if a chain diverges. Deterministic in `rng`.

    Raises:
        MetricError: if there is not one model, nothing is trainable, its outputs have a wrong
            shape, the loss is not finite, or there are fewer than 3 training labels.
    """
    settings = LearningCoefficientArgs(**args)  # type: ignore[arg-type]  # the reader checked them
    module = _prepared(models, data, rng, settings)
    inputs = as_parameters(data.train_inputs, module)
    loss = MovingLoss(module, inputs, data.train_labels, data.scoring, "learning_coefficient")
    n = data.scoring.operations.num_scored(data.train_labels)
    if n < 3:
        raise MetricError(f"learning_coefficient: found {n} training labels; allowed: 3 or more")
    heat = n / math.log(n)
    step = settings.step or _step(heat, settings.gamma, module, data, rng)
    dynamics = Langevin(heat, step, settings.gamma)
    steps = settings.burn_in + settings.draws
    chains = [
        _chain(loss, dynamics, steps, settings.batch_size, rng) for _ in range(settings.chains)
    ]
    rises = torch.stack(chains)
    return {
        **estimate(rises[:, settings.burn_in :], dynamics.heat),
        "loss_trace": rises.mean(0).tolist() if bool(rises.isfinite().all()) else None,
        "step": step,
        "num_labels": n,
        "num_parameters": len(loss.weights),
        "loss": loss.at_weights,
        "batch_norm": settings.batch_norm if has_batch_norm(models[0]) else None,
    }


def estimate(rises: Tensor, heat: float) -> Row:
    """Return the columns for the loss above that at w* at every draw of every chain (chains, T)."""
    names = ("learning_coefficient", "learning_coefficient_stderr", "drift", "chain_values")
    if not bool(rises.isfinite().all()):
        return dict.fromkeys(names)
    values = heat * rises.mean(1)
    half = rises.shape[1] // 2
    halves = [heat * float(part.mean()) for part in (rises[:, :half], rises[:, half:])]
    return {
        "learning_coefficient": float(values.mean()),
        "learning_coefficient_stderr": float(values.std()) / len(values) ** 0.5,
        "drift": halves[1] - halves[0] if half else None,
        "chain_values": values.tolist(),
    }


def langevin(
    rise: RiseAndGradient, start: Tensor, dynamics: Langevin, steps: int, rng: torch.Generator
) -> Tensor:
    """Run SGLD from `start` (P,) = w*; return the loss above that at w* after each step (T,), in
    float64. It ends early, with infinity, where the loss is not finite.
    """
    w, found = start.clone(), torch.full((steps + 1,), math.inf, dtype=torch.float64)
    for t in range(steps + 1):
        value, gradient = rise(w)
        if not math.isfinite(value):
            break
        found[t] = value
        noise = torch.randn(len(w), generator=rng, dtype=w.dtype, device=rng.device).to(w.device)
        drift = dynamics.heat * gradient + dynamics.gamma * (w - start)
        w = w - dynamics.step / 2 * drift + math.sqrt(dynamics.step) * noise
    return found[1:]


def _prepared(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    settings: LearningCoefficientArgs,
) -> nn.Module:
    """Return a copy of the one model under the BatchNorm policy."""
    if len(models) != 1:
        raise MetricError(f"learning_coefficient is measured on one model, got {len(models)}")
    if num_parameters(models[0]) == 0:
        raise MetricError(
            f"learning_coefficient: {type(models[0]).__name__} has no trainable parameter"
        )
    return prepare(models[0], settings.batch_norm, data.train_inputs, rng)


def _step(
    heat: float, gamma: float, module: nn.Module, data: Dataset, rng: torch.Generator
) -> float:
    """Return 1 / (2 (n b lambda_max + gamma)), the largest eigenvalue known to 5%."""
    inputs, labels = draw_examples(data, CURVED, seed=0)

    def largest(H: HessianOperator) -> float:
        like = H.parameters[0]
        start = rademacher(H.size, rng, like.dtype, like.device)
        return float(lanczos(H, start, STEPS, rng, tolerance=0.05).ritz_values[-1])

    network = copy_network(module)  # the operator may change its layout
    inputs = as_parameters(inputs, module)
    curvature = with_right_products(network, inputs, labels, rng, largest, data.scoring)
    if curvature <= 0 and gamma == 0:
        raise MetricError(
            "learning_coefficient: the largest eigenvalue of the Hessian is not positive, and gamma"
            " is 0, so nothing says how large a step may be; give step"
        )
    return 0.5 / (heat * max(0.0, curvature) + gamma)


def _chain(
    loss: MovingLoss, dynamics: Langevin, steps: int, batch_size: int, rng: torch.Generator
) -> Tensor:
    num = loss.all.stop

    def rise(w: Tensor) -> tuple[float, Tensor]:
        chosen = torch.randperm(num, generator=rng, device=rng.device)[:batch_size]
        chosen = chosen.to(w.device)
        value, gradient = loss.gradient(w, chosen)
        return value - loss.value(loss.weights, chosen), gradient

    return langevin(rise, loss.weights, dynamics, steps, rng)
