"""Sharpness-aware minimization: the gradient at the worst point near the weights.

SAM (Foret et al. 2021, eq. 2 and algorithm 1) minimises max_{|e| <= rho} L(w + e), to first order
at

    e(w) = rho g / |g|,   g = grad L(w),

and takes the optimizer's step from w with the gradient at w + e(w). Adaptive SAM (Kwon et al. 2021,
eq. 6) measures e in units of the weights, T = diag(|w|) + eta I:

    e(w) = rho T^2 g / |T g|.

L is the loss without weight decay, which the optimizer adds at w (Foret et al., eq. 1). Norms are
those of all parameters of one network together.

Here T scales every parameter, element by element: weights, biases, and the weights and biases of
normalisation layers. The published code of Kwon et al. (SamsungLabs/ASAM, ``asam.py``) also works
element by element and takes one norm over all parameters, but scales only parameters with
``weight`` in their name; that includes the weights of normalisation layers. All others, such as
biases, have T = 1 there. So the two differ wherever a network has biases.

Running statistics of BatchNorm, and all other buffers, are those of the first pass, at w: the
published code of Foret et al. keeps the state of that pass (`get_sam_gradient` returns
`inner_state`). The second pass leaves no trace but its gradient.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from phasegrid.train.recipe import SAM

ETA = 0.01
"""Added to |w| by adaptive SAM (Kwon et al. 2021, section 5)."""

TINY = 1e-16
"""Added to the norm, so that a gradient of zero moves nothing; the published code of Kwon et al.
adds as much.
"""


def sharpen(
    gradient_pass: Callable[[], object],
    weights: Tensor,
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Callable[[], Sequence[Tensor]],
    settings: SAM,
) -> None:
    """Replace the gradients at the weights by those at the worst point near them.

    `parameters` and `grads` (M, *shape) are views, without a graph, of `weights` and of the
    gradients of M networks; `gradient_pass` overwrites the latter. `buffers` says which tensors the
    pass must leave as they are.
    """
    kept, state = weights.clone(), [buffer.clone() for buffer in buffers()]
    for parameter, step in zip(parameters, _ascent(parameters, grads, settings), strict=True):
        parameter.add_(step)
    gradient_pass()
    weights.copy_(kept)
    with torch.no_grad():
        for buffer, before in zip(buffers(), state, strict=True):
            buffer.copy_(before)


def _ascent(parameters: Sequence[Tensor], grads: Sequence[Tensor], settings: SAM) -> list[Tensor]:
    """Return e(w) for every parameter, (M, *shape)."""
    scales = [p.abs().add_(ETA) for p in parameters] if settings.adaptive else None
    scaled = grads if scales is None else [t * g for t, g in zip(scales, grads, strict=True)]
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in scaled])
    size = settings.rho / (torch.linalg.vector_norm(norms, dim=0) + TINY)  # (M,)
    steps = [g * size.view(-1, *[1] * (g.dim() - 1)) for g in scaled]
    return steps if scales is None else [t * e for t, e in zip(scales, steps, strict=True)]
