"""Compute the trace of the Hessian: exactly if it equals that of the Gauss-Newton matrix, otherwise
as an estimate with its error.

Exact: tr(GGN) = (1/N) sum_n sum_k |J_n^T s_nk|^2 where sum_k s_nk s_nk^T is the Hessian of the loss
in the logits (`phasegrid.tasks.losses`) and J_n the Jacobian of the logits of example n. For the
cross-entropy this is diag(p_n) - p_n p_n^T, and the s_k are the C - 1 columns of its triangular
factor, in which nothing cancels: with tails q_k = p_{k+1} + ... + p_C,

    s_k = sqrt(p_k q_k / q_{k-1}) (e_k - sum_{j>k} (p_j / q_k) e_j).

One backward pass per column gives the gradients g at the outputs of all layers; a layer's share
follows from g and its input a: |a|^2 |g|^2 for a linear layer, |sum_l g_l a_l^T|^2 over the places
l for a convolution.

Estimated: tr(H) = tr(Q H Q^T) + E[z^T H z], z a random sign vector without its part in the span of
the rows of Q: Hutchinson's estimator deflated with a Lanczos basis (Meyer et al. 2021, Hutch++,
with another basis). Letters: N examples, C classes, P parameters, L places of a feature map, D =
input channels x kernel size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from phasegrid.metrics.hessian.basis import project_out, rademacher
from phasegrid.metrics.hessian.lanczos import MatVec, Spectrum
from phasegrid.metrics.hessian.operator import graph_memory
from phasegrid.models.network_state import copy_network, outputs_of
from phasegrid.tasks.losses import Curvature, softmax_columns

SHARE_OF_GRAPH_MEMORY = 8  # a chunk of the exact trace takes this share of a kept graph's memory


@dataclass(frozen=True, slots=True)
class TraceEstimate:
    """A trace, its standard error (0 if exact) and the method; the share of each layer, where it is
    known.
    """

    trace: float
    stderr: float
    method: str
    layers: Mapping[str, float] = field(default_factory=dict)

    def columns(self) -> dict[str, float | str | list[str] | list[float] | None]:
        """Return it as columns of the metric ``hessian``."""
        return {
            "trace": self.trace,
            "trace_stderr": self.stderr,
            "trace_method": self.method,
            "layers": list(self.layers) or None,
            "layer_traces": list(self.layers.values()) or None,
        }


def ggn_trace(
    module: nn.Module, inputs: Tensor, curvature: Curvature = softmax_columns
) -> dict[str, float]:
    """Return tr(GGN) of the mean loss with this `curvature` over `inputs` (N, ...), parameter
    tensor by parameter tensor.

    `module` must be piecewise linear in the sense of `phasegrid.metrics.hessian.piecewise`; it is
    not changed. Frozen parameters are left out. Exact to rounding: 1e-5 relative in float32, sums
    in float64. Costs K backward passes. If a linear layer has several rows per example, these must
    be consecutive.

    Raises:
        RowsError: if the rows of a layer's input do not belong to the examples.
    """
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    network, records = _recorded(module)
    totals = dict.fromkeys(sorted(trainable), 0.0)
    with torch.enable_grad():
        chunk = _chunk_size(network, records, inputs)
        for part in torch.split(inputs, chunk):
            for name, value in _chunk_trace(network, records, part, curvature).items():
                if name in trainable:
                    totals[name] += value / len(inputs)
    return totals


def example_norms(module: nn.Module, inputs: Tensor, curvature: Curvature) -> Tensor:
    """Return for each example sum_k sizes_nk |J_n^T c_nk|^2 (N,), with the sizes and columns c of
    `curvature`, by the formulas of the layers; frozen parameters are left out.

    Raises:
        RowsError: if the rows of a layer's input do not belong to the examples.
    """
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    network, records = _recorded(module)
    found = []
    with torch.enable_grad():
        for part in torch.split(inputs, _chunk_size(network, records, inputs)):
            logits = _forward(network, records, part)
            sizes, columns = curvature(logits.detach())
            sums = torch.zeros_like(sizes[:, 0])
            for k in range(columns.shape[1]):
                norms = _norms(records, logits, columns[:, k], keep=True)
                squares = [value for name, value in norms.items() if name in trainable]
                sums += sizes[:, k] * torch.stack(squares).sum(0)
            found.append(sums)
    return torch.cat(found)


def layer_norms(module: nn.Module, inputs: Tensor, columns: Tensor) -> dict[str, Tensor]:
    """Return, parameter tensor by parameter tensor, |J_n^T c_n|^2 (N,) for `columns` c (N, C), by
    the formulas of the layers.

    Raises:
        RowsError: if the rows of a layer's input do not belong to the examples.
    """
    network, records = _recorded(module)
    with torch.enable_grad():
        logits = _forward(network, records, inputs)
        return _norms(records, logits, columns, keep=False)


def deflated_hutchinson(
    matvec: MatVec, spectrum: Spectrum, probes: int, rng: torch.Generator
) -> TraceEstimate:
    """Estimate tr(H) with `probes` products beyond those of a Lanczos run; unbiased, with its
    standard error.

    Exact, and without products, if the run holds the whole spectrum.
    """
    known = float(spectrum.ritz_values.sum())
    if spectrum.complete:
        return TraceEstimate(known, 0.0, "exact_spectrum")
    like = spectrum.basis[0]
    found = []
    for _ in range(probes):
        z = rademacher(like.shape[1], rng, like.dtype, like.device)
        z = project_out(project_out(z, spectrum.basis), spectrum.basis)
        found.append(torch.dot(z.double(), matvec(z).double()))
    values = torch.stack(found).cpu()
    stderr = float(values.std()) / probes**0.5
    return TraceEstimate(known + float(values.mean()), stderr, "hutchinson_deflated")


@dataclass(frozen=True, slots=True)
class _Record:
    """A layer's output, and `square_norms`: a function from the gradient at the output to
    |gradient|^2 (n,) for each parameter of the layer.
    """

    name: str
    output: Tensor
    square_norms: Callable[[Tensor], dict[str, Tensor]]
    held: int


class RowsError(ValueError):
    """The rows of a layer's input do not belong to the examples."""


class _Records(list[_Record]):
    """The records of one forward pass of `num_examples`."""

    num_examples = 0


def _recorded(module: nn.Module) -> tuple[nn.Module, _Records]:
    """Copy a network into one that records the layers it calls."""
    network = copy_network(module).requires_grad_(False)
    records = _Records()
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d):
            layer.register_forward_hook(partial(_record, records, name))
    return network, records


def _forward(network: nn.Module, records: _Records, inputs: Tensor) -> Tensor:
    records.clear()
    records.num_examples = len(inputs)
    return outputs_of(network, inputs)


def _record(
    records: _Records, name: str, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor
) -> Tensor:
    (a,) = args
    a = a.detach()
    n = records.num_examples
    if len(a) % n or (len(a) != n and not isinstance(layer, nn.Linear)):
        raise RowsError(f"layer {name!r} is given {len(a)} rows for {n} examples")
    if isinstance(layer, nn.Conv2d):
        square_norms, held = _convolution(layer, a)
    elif isinstance(layer, nn.Linear):
        a = a.reshape(n, -1, a.shape[-1]).clone()
        square_norms, held = partial(_linear_norms, a), a.numel()
    else:
        assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
        normalised = functional.batch_norm(a, layer.running_mean, layer.running_var, eps=layer.eps)
        square_norms, held = partial(_norm_norms, normalised), a.numel()
    if not output.requires_grad:
        output.requires_grad_()  # the first layer: nothing before it needs a gradient
    records.append(_Record(name, output, square_norms, held + 3 * output.numel()))
    return output.clone()  # a later operation may write into its input


def _convolution(layer: nn.Conv2d, a: Tensor) -> tuple[Callable[[Tensor], dict[str, Tensor]], int]:
    """Prepare a convolution's input (n, ...) for the norms of per-example gradients.

    |sum_l g_l a_l^T|^2 is computed from the (Cout, D) sums or, if the map is smaller than D, from
    the products of places, sum_lm (g_l . g_m) (a_l . a_m).
    """
    assert not isinstance(layer.padding, str)
    kernel = (layer.kernel_size[0], layer.kernel_size[1])
    patches = functional.unfold(a, kernel, layer.dilation, layer.padding, layer.stride)
    n, _, places = patches.shape
    patches = patches.view(n * layer.groups, -1, places)
    if places < patches.shape[1]:
        products = patches.transpose(1, 2) @ patches
        return partial(_place_norms, products, layer.groups), products.numel()
    return partial(_patch_norms, patches, layer.groups), patches.numel()


def _patch_norms(patches: Tensor, groups: int, g: Tensor) -> dict[str, Tensor]:
    """`patches` (n G, D, L), g (n, Cout, H, W)."""
    n = len(g)
    rows = g.reshape(n * groups, -1, patches.shape[2])
    return {
        "weight": _square(rows @ patches.transpose(1, 2), n),
        "bias": _square(g.flatten(2).sum(2), n),
    }


def _place_norms(products: Tensor, groups: int, g: Tensor) -> dict[str, Tensor]:
    """`products` (n G, L, L) of patches, g (n, Cout, H, W)."""
    n = len(g)
    rows = g.reshape(n * groups, -1, products.shape[1])
    shared = (rows.transpose(1, 2) @ rows) * products
    return {
        "weight": shared.double().view(n, -1).sum(1),
        "bias": _square(g.flatten(2).sum(2), n),
    }


def _linear_norms(a: Tensor, g: Tensor) -> dict[str, Tensor]:
    """`a` (n, L, D), g (n, ..., K) or (n L, K)."""
    n = len(a)
    rows = g.reshape(n, -1, g.shape[-1])
    if a.shape[1] == 1:
        return {"weight": _square(a, n) * _square(rows, n), "bias": _square(rows, n)}
    return {"weight": _square(rows.transpose(1, 2) @ a, n), "bias": _square(rows.sum(1), n)}


def _norm_norms(normalised: Tensor, g: Tensor) -> dict[str, Tensor]:
    """`normalised` and g (n, C, ...)."""
    n, channels = g.shape[:2]
    weight = (g * normalised).reshape(n, channels, -1).sum(2)
    bias = g.reshape(n, channels, -1).sum(2)
    return {"weight": _square(weight, n), "bias": _square(bias, n)}


def _square(values: Tensor, n: int) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(values.reshape(n, -1), dim=1, dtype=torch.float64)
    return norms.square()


def _norms(records: _Records, logits: Tensor, columns: Tensor, keep: bool) -> dict[str, Tensor]:
    """Return |J_n^T c_n|^2 (n,) for each parameter tensor of the recorded layers."""
    outputs = [record.output for record in records]
    gradients = torch.autograd.grad(
        logits, outputs, columns.to(logits.dtype), retain_graph=keep, allow_unused=True
    )
    found: dict[str, Tensor] = {}
    for record, g in zip(records, gradients, strict=True):
        if g is not None:
            for kind, squares in record.square_norms(g).items():
                found[f"{record.name}.{kind}".lstrip(".")] = squares
    return found


def _chunk_trace(
    network: nn.Module, records: _Records, inputs: Tensor, curvature: Curvature
) -> dict[str, float]:
    logits = _forward(network, records, inputs)
    sizes, columns = curvature(logits.detach())
    totals: dict[str, Tensor] = {}
    for k in range(columns.shape[1]):
        for name, squares in _norms(records, logits, columns[:, k], keep=True).items():
            share = sizes[:, k] @ squares
            totals[name] = totals[name] + share if name in totals else share
    return dict(zip(totals, numbers_of(list(totals.values())), strict=True))


def numbers_of(values: list[Tensor]) -> list[float]:
    """Read numbers from their device at once."""
    numbers: list[float] = torch.stack(values).tolist() if values else []
    return numbers


def _chunk_size(network: nn.Module, records: _Records, inputs: Tensor) -> int:
    """Choose the batch size from the memory that one example needs."""
    _forward(network, records, inputs[:1])
    held = sum(record.held for record in records) * inputs.element_size()
    limit = graph_memory(inputs.device) // SHARE_OF_GRAPH_MEMORY
    return max(1, min(len(inputs), limit // max(1, held)))
