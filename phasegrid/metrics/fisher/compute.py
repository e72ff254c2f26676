"""The trace of the Fisher information and of the empirical Fisher (Jastrzebski et al. 2021;
Martens 2020).

    tr(F)      = (1/N) sum_n E_{y ~ p(y|x_n)} |g_n(y)|^2 = (1/N) sum_n sum_k s_nk |J_n^T c_nk|^2
    tr(F_emp)  = (1/N) sum_n |g_n(y_n)|^2                = (1/N) sum_n |J_n^T r_n|^2

with g_n(y) the gradient of the loss of example n with label y, J_n the Jacobian of its logits,
sum_k s c c^T the curvature of the loss in the logits (diag(p) - p p^T for the cross-entropy), and
r_n the gradient of the loss in them. So tr(F) is the trace of the Gauss-Newton matrix, exactly, for
any network.

Where the layers' own formulas give the gradients of an example that autograd gives (tested on a
pair), all examples of a batch are computed together; else one after another. Letters: N examples, K
columns, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.fisher import FisherArgs
from phasegrid.metrics.hessian.exact_trace import EXAMPLES, layers_give_the_gradients
from phasegrid.metrics.hessian.trace import RowsError, example_norms
from phasegrid.metrics.network.losses import policy_of, prepared
from phasegrid.metrics.network.precision import full_precision
from phasegrid.models.network_state import outputs_of
from phasegrid.tasks.losses import Curvature

Row = dict[str, float | int | str | None]


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Row:
    """Measure the Fisher information of one model; `args` are the fields of `FisherArgs`.

    Exact for the drawn examples: float32 sums of a gradient, float64 over examples.

    Raises:
        MetricError: if there is not one model, nothing is trainable, its outputs have a wrong
            shape, or the loss is not finite.
    """
    settings = FisherArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    module, inputs, labels = prepared(models, data, rng, settings, "fisher")
    with full_precision(inputs.device):
        loss, residuals = _residuals(module, inputs, labels, data)
        together = _layers_suffice(module, inputs)
        norms = example_norms if together else norms_one_by_one
        empirical = norms(module, inputs, _in_order(residuals))
        curvature = data.objective.curvature
        true = None if curvature is None else norms(module, inputs, curvature)
    return {
        **_mean("fisher_trace", true),
        **_mean("empirical_fisher_trace", empirical),
        "gradients_by": "layers" if together else "examples",
        "loss": loss,
        "num_examples": len(labels),
        "batch_norm": policy_of(models[0], settings),
    }


def norms_one_by_one(module: nn.Module, inputs: Tensor, curvature: Curvature) -> Tensor:
    """Return sum_k s_nk |J_n^T c_nk|^2 (N,) by a backward pass for each example and column."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    found = []
    for n in range(len(inputs)):
        with torch.enable_grad():
            logits = outputs_of(module, inputs[n : n + 1])
        sizes, columns = curvature(logits.detach())
        squares = [
            sum(
                g.double().square().sum()
                for g in torch.autograd.grad(
                    logits,
                    parameters,
                    columns[:, k].to(logits),
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            )
            for k in range(columns.shape[1])
        ]
        found.append(sizes[0] @ torch.stack([torch.as_tensor(s) for s in squares]))
    return torch.stack(found)


def _layers_suffice(module: nn.Module, inputs: Tensor) -> bool:
    rng = torch.Generator().manual_seed(0)  # its own generator: other draws stay the same
    try:
        return layers_give_the_gradients(module, inputs[:EXAMPLES], rng)
    except RowsError:
        return False


def _residuals(
    module: nn.Module, inputs: Tensor, labels: Tensor, data: Dataset
) -> tuple[float, Tensor]:
    """Return the mean loss, and the gradient of each example's loss in its logits (N, C)."""
    parts = []
    with torch.no_grad():
        for x, y in data.scoring.batches(inputs, labels, inputs.element_size()):
            parts.append(outputs_of(module, x))
            if fault := data.scoring.fault(parts[-1], y):
                raise MetricError(f"fisher: {fault}")
    logits = torch.cat(parts).double().requires_grad_()
    with torch.enable_grad():
        total = data.scoring.total(logits, inputs, labels)
        (residuals,) = torch.autograd.grad(total, logits)
    loss = float(total.detach()) / len(labels)
    if loss - loss != 0:
        raise MetricError(
            f"fisher: the loss is {loss} on {len(labels)} examples; these are not the weights of a"
            " successful training. Was it recorded as diverged?"
        )
    return loss, residuals


def _in_order(residuals: Tensor) -> Curvature:
    """Return what gives, for the logits of consecutive examples, r r^T as their curvature."""
    done = 0

    def next_of(logits: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal done
        some = residuals[done : done + len(logits)]
        done += len(logits)
        return torch.ones_like(some[:, :1]), some.unsqueeze(1)

    return next_of


def _mean(name: str, values: Tensor | None) -> Row:
    if values is None:
        return {name: None, f"{name}_stderr": None}
    stderr = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else None
    return {name: float(values.mean()), f"{name}_stderr": stderr}
