"""Compute the trace of the Hessian without an error, if a test on the network shows that the
formula holds.

The formula of `trace` needs two properties. A list of operations (`piecewise`) can be wrong about
both, because it does not see all code. So both are tested on a pair of examples, with random
directions from a generator of their own.

The formula is written for one row of logits per example and is not used otherwise. The properties:

- Every logit is affine in each parameter tensor w if the others are fixed: d2/dt2 f(w + t v) = 0.
  This is tested on the first tensor (its second derivative involves all later layers) and on
  another one, drawn at random.
- The gradient norms that the layers give for an example beside another one equal those of autograd
  for the example alone. Then no example sees another, and the rows of a layer's input belong to the
  examples in their order.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from phasegrid.metrics.hessian.piecewise import is_piecewise_linear
from phasegrid.metrics.hessian.trace import (
    RowsError,
    TraceEstimate,
    ggn_trace,
    layer_norms,
    numbers_of,
)
from phasegrid.models.network_state import outputs_of
from phasegrid.tasks.losses import Curvature, softmax_columns

EXAMPLES = 2
SAME = 1e-3
"""The largest relative difference ascribed to rounding in float32; second derivatives of an affine
function are mostly exactly 0.
"""


def exact_trace(
    module: nn.Module, inputs: Tensor, curvature: Curvature = softmax_columns
) -> TraceEstimate | None:
    """Return tr(H) of the mean loss with this `curvature` over `inputs` (N, ...); None if it is not
    known to equal tr(GGN).
    """
    if not is_piecewise_linear(module) or _run(module, inputs[:1]).dim() != 2:
        return None
    rng = torch.Generator().manual_seed(0)  # its own generator: other draws stay the same
    try:
        if not (
            is_affine_in_each_tensor(module, inputs[:EXAMPLES], rng)
            and layers_give_the_gradients(module, inputs[:EXAMPLES], rng)
        ):
            return None
        parts = ggn_trace(module, inputs, curvature)
    except RowsError:
        return None
    return TraceEstimate(sum(parts.values()), 0.0, "exact_ggn", _by_layer(module, parts))


def _by_layer(module: nn.Module, parts: Mapping[str, float]) -> dict[str, float]:
    """Add up what belongs to the parameter tensors of one layer: its weight and its bias."""
    layers: dict[str, float] = {}
    for name, _ in module.named_parameters():
        if name in parts:
            layer = name.rpartition(".")[0] or name
            layers[layer] = layers.get(layer, 0.0) + parts[name]
    return layers


def is_affine_in_each_tensor(module: nn.Module, inputs: Tensor, rng: torch.Generator) -> bool:
    """Say whether the second derivatives of the logits along a direction in a parameter tensor are
    zero, for two tensors.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    names = list(parameters)
    drawn = names[int(torch.randint(len(names), (1,), generator=rng))]
    chosen = list(dict.fromkeys([names[0], drawn]))
    t = torch.zeros(len(chosen), dtype=inputs.dtype, device=inputs.device, requires_grad=True)
    with torch.enable_grad():
        moved = {
            name: parameters[name].detach() + t[k] * _direction(parameters[name], rng)
            for k, name in enumerate(chosen)
        }
        logits: Tensor = functional_call(module, moved, (inputs.clone(),))
        value = (logits * _draw(logits, rng)).sum()
        (slopes,) = torch.autograd.grad(value, t, create_graph=True, materialize_grads=True)
    scale = float(value.detach().abs() + slopes.detach().abs().max())
    return all(_second(slopes, t, k) <= SAME * scale for k in range(len(chosen)))


def layers_give_the_gradients(module: nn.Module, inputs: Tensor, rng: torch.Generator) -> bool:
    """Say whether the squared gradient norms of the last example equal those of autograd for it
    alone.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    columns = _draw(_run(module, inputs), rng)
    by_layer = layer_norms(module, inputs, columns)
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            outputs_of(module, inputs[-1:]),
            list(parameters.values()),
            columns[-1:],
            materialize_grads=True,
        )
    squares = numbers_of([g.double().square().sum() for g in gradients])
    last = numbers_of([norms[-1] for norms in by_layer.values()])
    of_layers = dict(zip(by_layer, last, strict=True))
    found = [of_layers.get(name, 0.0) for name in parameters]
    least = SAME * max(squares)
    return all(
        abs(one - other) <= SAME * max(other, least)
        for one, other in zip(found, squares, strict=True)
    )


def _run(module: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return outputs_of(module, inputs)


def _direction(parameter: Tensor, rng: torch.Generator) -> Tensor:
    """Draw a direction with the norm of a parameter tensor."""
    drawn = _draw(parameter, rng)
    size = float(torch.linalg.vector_norm(parameter.detach()))
    return drawn * ((size or 1.0) / float(torch.linalg.vector_norm(drawn)))


def _draw(like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=rng, dtype=torch.float64).to(like)


def _second(slopes: Tensor, t: Tensor, k: int) -> float:
    """Return the size of the second derivative along direction `k`."""
    if not slopes.requires_grad:
        return 0.0
    (row,) = torch.autograd.grad(slopes[k], t, retain_graph=True, materialize_grads=True)
    return abs(float(row[k]))
