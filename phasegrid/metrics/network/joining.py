"""Interpolate the untrained tensors that differ between networks, along a curve or a simplex.

Frozen parameters (random features, a frozen backbone) and buffers may differ from seed to seed, and
the far end of a curve must be the second network. So all tensors that differ are mixed by the same
coefficients B_j as the trainable weights. A vertex between the networks has no untrained tensors of
its own: a bend gets values from the straight line between the networks, a connector gets their
mean. Along a curve with equally spaced bends this gives (1 - t) a + t b. Statistics of BatchNorm
are left out, because they are estimated anew at every point, unless they are asked for.

Letters: V vertices, Q numbers that differ and do not train.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.models.evaluation import predict
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.weights import batch_norm_modules
from phasegrid.seeding import nothing_drawn

END_EXAMPLES = 16
"""Number of examples on which the end of a curve is compared with its network."""

ROUNDING = 1e-3
"""How much their outputs may differ, as a share of the largest: float32 in another memory layout
differs by about 1e-5.
"""


@dataclass(frozen=True, slots=True)
class Rest:
    """The untrained tensors that differ between networks: their `names`, and their values at each
    vertex, (V, Q).
    """

    names: tuple[str, ...] = ()
    vertices: Tensor | None = None

    def place(self, flat: FlatNetwork, coefficients: Tensor) -> None:
        """Set these tensors of a network to their values at the point with `coefficients` (V,); if
        one of them is 1, exactly to those of that vertex.

        They lie where they were: recorded work reads them there.
        """
        if self.vertices is None:
            return
        point = coefficients.to(self.vertices) @ self.vertices[: len(coefficients)]
        start = 0
        for name in self.names:
            held = flat.constant(name)
            held.copy_(point[start : start + held.numel()].view(held.shape))
            start += held.numel()


NOTHING = Rest()


def place_point(flat: FlatNetwork, vertices: Tensor, rest: Rest, coefficients: Tensor) -> None:
    """Set a network to the mix of `vertices` (V, P) and of their untrained tensors with
    `coefficients` (V,), which sum to 1; if one of them is 1, exactly to that vertex.
    """
    used = coefficients.nonzero().flatten()
    weights = coefficients[used].to(vertices)
    flat.assign(torch.mv(vertices[used.to(vertices.device)].t(), weights))
    rest.place(flat, coefficients)


def rest_of_curve(models: Sequence[nn.Module], num_bends: int) -> Rest:
    """Return the untrained tensors that differ between the ends of a curve, at each of its V =
    `num_bends` + 2 vertices.

    Raises:
        MetricError: as `rest_of`.
    """
    ends = rest_of(models)
    if ends.vertices is None:
        return ends
    t = torch.linspace(0, 1, num_bends + 2, dtype=ends.vertices.dtype, device=ends.vertices.device)
    t = t.unsqueeze(1)
    return Rest(ends.names, (1 - t) * ends.vertices[:1] + t * ends.vertices[1:])


def rest_of_complex(
    models: Sequence[nn.Module], num_connectors: int, with_statistics: bool = False
) -> Rest:
    """Return the untrained tensors that differ between the modes of a complex, at each mode and
    each connector, and, if asked for, the statistics of BatchNorm.

    Raises:
        MetricError: as `rest_of`.
    """
    modes = rest_of(models, with_statistics)
    if modes.vertices is None:
        return modes
    middle = modes.vertices.mean(dim=0, keepdim=True)
    return Rest(modes.names, torch.cat([modes.vertices, middle.expand(num_connectors, -1)]))


def rest_of(models: Sequence[nn.Module], with_statistics: bool = False) -> Rest:
    """Return the untrained tensors that differ between networks of one architecture, with one
    vertex per network, and, if asked for, the statistics of BatchNorm.

    Raises:
        MetricError: if their tensors have other names or shapes, or if integer tensors (counters,
            tables) differ: these cannot be interpolated.
    """
    states = [_untrained(model) for model in models]
    names = []
    for name, first in states[0].items():
        others = [state.get(name) for state in states[1:]]
        if any(other is None or other.shape != first.shape for other in others):
            raise MetricError(
                f"joining models in weight space: {name!r} is missing in one of them or differs"
                f" in shape; all must have the same architecture"
            )
        if all(torch.equal(first, other) for other in others if other is not None):
            continue
        if not first.is_floating_point():
            raise MetricError(
                f"joining models in weight space: {name!r} ({first.dtype}) differs between"
                f" them, and integers cannot be interpolated; remove the metric, or keep this"
                f" tensor equal for all seeds"
            )
        names.append(name)
    if with_statistics:
        found = [_statistics(model) for model in models]
        states = [own | other for own, other in zip(states, found, strict=True)]
        names += found[0]
    if not names:
        return NOTHING
    rows = [torch.cat([state[name].flatten().double() for name in names]) for state in states]
    return Rest(tuple(names), torch.stack(rows))


def _untrained(module: nn.Module) -> dict[str, Tensor]:
    """Return the part of a network's state that is neither trained nor a statistic of BatchNorm."""
    statistics = {id(b) for layer in batch_norm_modules(module) for b in layer.buffers(False)}
    stored = module.state_dict(keep_vars=True)
    return {
        name: value.detach()
        for name, value in stored.items()
        if not value.requires_grad and id(value) not in statistics
    }


def _statistics(module: nn.Module) -> dict[str, Tensor]:
    """Return the running means and variances of BatchNorm."""
    own = {id(b) for m in batch_norm_modules(module) for b in (m.running_mean, m.running_var)}
    return {name: value for name, value in module.named_buffers() if id(value) in own}


def require_ends(module: nn.Module, model: nn.Module, inputs: Tensor, which: str) -> None:
    """Check that `module`, at an end of a curve, gives the same outputs as `model` for some of
    `inputs`.

    For this, statistics of BatchNorm are taken from `model`.

    Raises:
        MetricError: if it does not, or if it draws in eval mode.
    """
    for layer, own in zip(batch_norm_modules(module), batch_norm_modules(model), strict=True):
        layer.load_state_dict({**layer.state_dict(), **dict(own.named_buffers())})
    some = inputs[:END_EXAMPLES]
    with nothing_drawn("joining models in weight space", some.device):
        found, expected = (predict(each, some).double() for each in (module, model))
    apart, largest = (found - expected).abs().amax(), expected.abs().amax()
    if bool(apart > ROUNDING * largest):
        raise MetricError(
            f"joining models in weight space: {which}, rebuilt from its parameters and buffers,"
            f" gives outputs that differ by up to {float(apart):.3g} of {float(largest):.3g}."
            f" The network keeps state that is neither a parameter nor a buffer"
        )
