"""Relative flatness of a layer (Petzka et al. 2021).

    kappa = sum_{s,s'} <w_s, w_s'> Tr(H_ss'),   H_ss' = d2 L / dw_s dw_s' (M, M)

with rows w_s of the matrix W (S, M) of the layer. With v_jk the matrix that has column k of W as
its column j and zeros elsewhere, kappa = sum_jk v_jk^T H v_jk, which gives an estimate for any
layer: with random signs q, r (M,),

    kappa = E[v^T H v],   v = (W q) r^T.

Exact for a linear layer z = W a + b with one row a_n for an example: then H = (1/N) sum_n G_n (x)
a_n a_n^T with G_n the Hessian of the loss of example n in z_n, and

    kappa = (1/N) sum_n |a_n|^2 sum_k w_k^T G_n w_k,   w_k the columns of W,

one product in z for each column. Letters: N examples, S outputs and M inputs of the layer.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.hessian.basis import rademacher
from phasegrid.metrics.hessian.operator import HessianOperator, with_right_products
from phasegrid.metrics.network.losses import policy_of, prepared
from phasegrid.metrics.network.precision import full_precision
from phasegrid.metrics.relative_flatness import RelativeFlatnessArgs
from phasegrid.models.network_state import copy_network, outputs_of
from phasegrid.models.weights import parameter_slices, uses_batch_statistics

Row = dict[str, float | int | str | None]


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Row:
    """Measure relative flatness of one model; `args` are the fields of `RelativeFlatnessArgs`.

    Exact to rounding, or unbiased with a standard error, for the drawn examples.

    Raises:
        MetricError: if there is not one model, the layer does not exist or has no matrix that
            trains, the outputs have a wrong shape, or the loss is not finite.
    """
    settings = RelativeFlatnessArgs(**args)  # type: ignore[arg-type]  # the sweep reader checked
    module, inputs, labels = prepared(models, data, rng, settings, "relative_flatness")
    name = _layer(module, settings.layer)
    work = partial(_estimate, module, name, settings.probes, rng)
    row = None
    if settings.method == "auto" and not uses_batch_statistics(module):
        row = _exact(module, name, inputs, labels, data)
    if row is None:
        row = with_right_products(module, inputs, labels, rng, work, data.scoring)
    return {
        **row,
        "layer": name,
        "num_examples": len(labels),
        "batch_norm": policy_of(models[0], settings),
    }


def _layer(module: nn.Module, asked: str) -> str:
    """Return the name of the layer that is asked for."""
    trained = {p.name for p in parameter_slices(module) if len(p.shape) > 1}
    names: list[str] = [name for name, _ in module.named_modules()]
    layers = [name for name in names if f"{name}.weight".lstrip(".") in trained]
    if asked == "last":
        linear = [n for n in layers if isinstance(module.get_submodule(n), nn.Linear)]
        if linear:
            return linear[-1]
    elif asked in layers:
        return asked
    raise MetricError(
        f"relative_flatness: found layer: {asked}, but {type(module).__name__} has no such layer"
        f" with a matrix of weights that trains; allowed: {', '.join(layers) or 'none'}"
    )


def _exact(
    module: nn.Module, name: str, inputs: Tensor, labels: Tensor, data: Dataset
) -> Row | None:
    """Return the columns by products in the outputs of the layer; None if the formula does not
    hold.
    """
    network = copy_network(module).requires_grad_(False)
    layer = network.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        return None
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(_layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        z = output.detach().requires_grad_()
        calls.append((given[0].detach(), z))
        return z.clone()  # a later operation may write into its input

    layer.register_forward_hook(keep)
    num, total, loss = data.scoring.operations.num_scored(labels), 0.0, 0.0
    for x, y in data.scoring.batches(inputs, labels, inputs.element_size()):
        calls.clear()
        with full_precision(inputs.device), torch.enable_grad():
            outputs = outputs_of(network, x)
            if fault := data.scoring.fault(outputs, y):
                raise MetricError(f"relative_flatness: {fault}")
            if len(calls) != 1 or calls[0][0].dim() != 2 or len(calls[0][0]) != len(x):
                return None
            part = data.scoring.total(outputs, x, y)
            total += _of_columns(layer.weight, *calls[0], part)
            loss += float(part.detach())
    if loss - loss != 0:
        raise MetricError(
            f"relative_flatness: the loss is {loss / num} on {len(labels)} examples; these are not"
            " the weights of a successful training. Was it recorded as diverged?"
        )
    return {
        "relative_flatness": total / num,
        "relative_flatness_stderr": 0.0,
        "method": "exact",
        "loss": loss / num,
    }


def _of_columns(weight: Tensor, a: Tensor, z: Tensor, loss: Tensor) -> float:
    """Return sum_n |a_n|^2 sum_k w_k^T G_n w_k."""
    (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
    lengths = a.double().square().sum(1)
    if not gradient.requires_grad:
        return 0.0  # the loss is piecewise linear in z
    total = torch.zeros_like(lengths)
    for column in weight.t():
        direction = column.expand_as(z)
        (product,) = torch.autograd.grad(
            gradient, z, direction, retain_graph=True, materialize_grads=True
        )
        total += (product * direction).double().sum(1)
    return float(lengths @ total)


def _estimate(
    module: nn.Module, name: str, probes: int, rng: torch.Generator, H: HessianOperator
) -> Row:
    """Return the columns by `probes` products with the Hessian."""
    place = next(p for p in parameter_slices(module) if p.name == f"{name}.weight".lstrip("."))
    like = H.parameters[0].detach()
    weight = module.get_parameter(place.name).detach().to(like).flatten(1)
    found = []
    for _ in range(probes):
        q, r = (rademacher(weight.shape[1], rng, like.dtype, like.device) for _ in range(2))
        v = like.new_zeros(H.size)
        v[place.start : place.stop] = torch.outer(weight @ q, r).flatten()
        found.append(v.double() @ H(v).double())
    values = torch.stack(found).cpu()
    return {
        "relative_flatness": float(values.mean()),
        "relative_flatness_stderr": float(values.std()) / probes**0.5,
        "method": "estimate",
        "loss": H.loss,
    }
