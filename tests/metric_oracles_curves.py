"""Slow transcriptions of the curve and simplex papers, to test and to race against.

Written from the formulas; nothing of `phasegrid.metrics` is used.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import batch_norm, conv2d, cross_entropy, linear


class CurveLayer(nn.Module):
    """A convolution, linear or BatchNorm layer whose every parameter exists once per vertex of the
    curve.

    The twin-architecture way of Garipov et al. 2018: weights at t are computed inside the layer,
    under autograd.
    """

    def __init__(self, base: nn.Module, num_vertices: int) -> None:
        super().__init__()
        self.base = [base]  # in a list, so that its parameters are not registered here
        self.names = [name for name, _ in base.named_parameters()]
        for name, parameter in base.named_parameters():
            for v in range(num_vertices):
                copied = nn.Parameter(
                    parameter.detach().clone(), requires_grad=0 < v < num_vertices - 1
                )
                self.register_parameter(f"{name}_{v}", copied)
        self.coefficients: list[float] = []
        self.squares: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        at_t: dict[str, Tensor] = {}
        self.squares = 0.0
        for name in self.names:
            at_t[name] = sum(
                c * getattr(self, f"{name}_{v}") for v, c in enumerate(self.coefficients)
            )
            self.squares = self.squares + at_t[name].square().sum()
        base = self.base[0]
        bias = at_t.get("bias")
        if isinstance(base, nn.Conv2d):
            return conv2d(x, at_t["weight"], bias, base.stride, base.padding)
        if isinstance(base, nn.Linear):
            return linear(x, at_t["weight"], bias)
        return batch_norm(
            x,
            base.running_mean,
            base.running_var,
            at_t["weight"],
            bias,
            self.training,
            base.momentum,
            base.eps,
        )


class CurveTwin(nn.Module):
    """A network rebuilt of `CurveLayer`s, on the curve through `vertices` (V, P)."""

    def __init__(self, net: nn.Module, vertices: Tensor) -> None:
        super().__init__()
        self.net = net
        for name, module in list(net.named_modules()):
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                parent, _, child = name.rpartition(".")
                setattr(net.get_submodule(parent), child, CurveLayer(module, len(vertices)))
        self.layers = [m for m in net.modules() if isinstance(m, CurveLayer)]
        for v, vertex in enumerate(vertices):
            nn.utils.vector_to_parameters(vertex, self.vertex(v))

    def vertex(self, v: int) -> list[nn.Parameter]:
        return [getattr(layer, f"{name}_{v}") for layer in self.layers for name in layer.names]

    def forward(self, x: Tensor, coefficients: list[float]) -> Tensor:
        for layer in self.layers:
            layer.coefficients = coefficients
        out: Tensor = self.net(x)
        return out

    def l2(self) -> Tensor:
        """Half the squared norm of the weights last used."""
        return 0.5 * sum(layer.squares for layer in self.layers)

    def bends(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]


def curve_coefficients(curve: str, num_bends: int, t: float) -> list[float]:
    """B_j(t) by de Casteljau's halving (Bezier) or by walking the pieces (polychain)."""
    num = num_bends + 2
    if curve == "polychain":
        piece = min(int(t * (num - 1)), num - 2)
        inside = t * (num - 1) - piece
        return [1 - inside if j == piece else inside if j == piece + 1 else 0.0 for j in range(num)]
    rows = [[float(i == j) for j in range(num)] for i in range(num)]
    while len(rows) > 1:
        rows = [
            [(1 - t) * a + t * b for a, b in zip(low, high, strict=True)]
            for low, high in pairwise(rows)
        ]
    return rows[0]


def loss_at(net: nn.Module, vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of `net` with trainable parameters `vector`, differentiable in it."""
    named, start = {}, 0
    for name, parameter in net.named_parameters():
        named[name] = vector[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return cross_entropy(functional_call(net, named, (x,)), y)


def exact_squared_volume(vertices: list[list[int]]) -> Fraction:
    """V^2 of a simplex with integer vertices: det(E E^T) / k!^2 in rational arithmetic."""
    edges = [[Fraction(a - b) for a, b in zip(v, vertices[0], strict=True)] for v in vertices[1:]]
    gram = [[sum(a * b for a, b in zip(r, s, strict=True)) for s in edges] for r in edges]
    determinant = Fraction(1)
    for i in range(len(gram)):
        determinant *= gram[i][i]
        for r in range(i + 1, len(gram)):
            factor = gram[r][i] / gram[i][i]
            gram[r] = [a - factor * b for a, b in zip(gram[r], gram[i], strict=True)]
    return determinant / math.factorial(len(edges)) ** 2


def cayley_menger_squared_volume(vertices: Sequence[Tensor]) -> Tensor:
    """|det M| / (2^k k!^2) with M the bordered matrix of squared distances (Benton et al. 2021): V
    squared.
    """
    num = len(vertices)
    bordered = torch.ones(num + 1, num + 1, dtype=vertices[0].dtype)
    bordered.fill_diagonal_(0)
    for i, j in combinations(range(num), 2):
        squared = (vertices[i] - vertices[j]).square().sum()
        bordered[i + 1, j + 1] = squared
        bordered[j + 1, i + 1] = squared
    dimension = num - 1
    return torch.linalg.det(bordered).abs() / (2.0**dimension * math.factorial(dimension) ** 2)


def log_volumes_by_qr(vertices: Tensor, simplexes: Sequence[Sequence[int]]) -> Tensor:
    """log V of every simplex, differentiable."""
    logs = []
    for simplex in simplexes:
        corners = vertices[list(simplex)]
        R = torch.linalg.qr((corners[1:] - corners[0]).t()).R
        logs.append(R.diagonal().abs().log().sum() - math.lgamma(len(simplex)))
    return torch.stack(logs)


def total_log_volume(log_volumes: Tensor, simplexes: Sequence[Sequence[int]]) -> Tensor:
    """log V = sum_d (n_d / n) log V_d, differentiable."""
    sizes = torch.tensor([len(simplex) for simplex in simplexes])
    parts = [log_volumes[sizes == size] for size in sizes.unique()]
    return torch.stack([len(part) * part.logsumexp(0) for part in parts]).sum() / len(sizes)
