"""Directions that have a formula: Gaussian draws, and the negative gradient.

Letters: P trainable parameters, D directions, N examples.
"""

import torch
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.metrics.directions import GRADIENT_BATCH
from phasegrid.metrics.network.precision import full_precision
from phasegrid.models.network_state import outputs_of
from phasegrid.tasks.scoring import Scoring


def draw_directions(num: int, weights: Tensor, rng: torch.Generator) -> Tensor:
    """Draw `num` independent directions from N(0, I), (D, P), on the device of `rng`; return them
    in the dtype and on the device of `weights` (P,).

    The first of several directions is the one that would be drawn alone.
    """
    drawn = [
        torch.randn(len(weights), generator=rng, dtype=weights.dtype, device=rng.device)
        for _ in range(num)
    ]
    return torch.stack(drawn).to(weights.device)


def loss_and_gradient(
    module: nn.Module, inputs: Tensor, labels: Tensor, scoring: Scoring
) -> tuple[float, Tensor]:
    """Return the mean loss of `module`, in its present mode, over the scored labels of a set, and
    its gradient (P,) in float64, without TF32 and autocast.

    Exact to rounding in the dtype of the weights; batches are added in float64.

    Raises:
        MetricError: if the outputs have another shape than the labels, or the loss is not finite.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    itemsize, num = parameters[0].itemsize, scoring.operations.num_scored(labels)
    total = torch.zeros((), dtype=torch.float64, device=inputs.device)
    gradient = torch.zeros(sum(map(Tensor.numel, parameters)), dtype=torch.float64)
    gradient = gradient.to(inputs.device)
    for some, theirs in scoring.batches(inputs, labels, itemsize, GRADIENT_BATCH):
        with full_precision(inputs.device), torch.enable_grad():
            logits = outputs_of(module, some)
            if fault := scoring.fault(logits, theirs):
                raise MetricError(f"directions: {fault}")
            loss = scoring.total(logits, some, theirs) / num
            parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        total += loss.detach()
        gradient += torch.cat([part.reshape(-1) for part in parts])
    if not bool(total.isfinite()):
        raise MetricError(
            f"directions: the loss is {float(total)} on {len(labels)} examples; these are not the"
            " weights of a successful training. Was it recorded as diverged?"
        )
    return float(total), gradient
