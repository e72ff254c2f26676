"""Slow, plain transcriptions of the papers' formulas, in float64: what the fast code is tested
against.

Nothing here shares code with `phasegrid`.
"""

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy


def dense_hessian(module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the Hessian (P, P) of the mean cross-entropy, differentiating the gradient entry by
    entry.
    """
    module = copy.deepcopy(module).double()
    parameters = [p for p in module.parameters() if p.requires_grad]
    loss = cross_entropy(module(inputs.double()), labels)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradients])
    rows = []
    for entry in flat:
        row = [torch.zeros_like(p) for p in parameters]
        if entry.requires_grad:
            found = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True)
            row = [r if f is None else f for r, f in zip(row, found, strict=True)]
        rows.append(torch.cat([r.reshape(-1) for r in row]))
    return torch.stack(rows)


def dense_ggn(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return the Gauss-Newton matrix (P, P): mean over examples of J^T (diag(p) - p p^T) J."""
    module = copy.deepcopy(module).double()
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    parameters = dict(module.named_parameters())
    total: Tensor | float = 0.0
    for x in inputs.double():

        def logits(*values: Tensor, x: Tensor = x) -> Tensor:
            replaced = dict(zip(names, values, strict=True))
            out: Tensor = functional_call(module, replaced, (x.unsqueeze(0),))[0]
            return out

        values = tuple(parameters[name] for name in names)
        jacobians = torch.autograd.functional.jacobian(logits, values)
        J = torch.cat([j.reshape(len(j), -1) for j in jacobians], dim=1)
        p = logits(*values).softmax(0)
        total = total + J.t() @ (torch.diag(p) - torch.outer(p, p)) @ J
    assert isinstance(total, Tensor)
    return (total / len(inputs)).detach()


def power_iteration(
    matvec: Callable[[Tensor], Tensor], v: Tensor, most: int = 100, tolerance: float = 1e-3
) -> tuple[float, int]:
    """Return the eigenvalue of largest magnitude as PyHessian finds it (Yao et al. 2020), and the
    products spent.
    """
    v = v / (v.norm() + 1e-6)
    value: float | None = None
    for done in range(1, most + 1):
        product = matvec(v)
        found = float(product @ v)
        v = product / (product.norm() + 1e-6)
        if value is not None and abs(value - found) / (abs(value) + 1e-6) < tolerance:
            return value, done
        value = found
    assert value is not None
    return value, most


def hutchinson(
    matvec: Callable[[Tensor], Tensor],
    size: int,
    rng: torch.Generator,
    most: int = 100,
    tolerance: float = 1e-3,
) -> tuple[float, int]:
    """Return the trace as PyHessian estimates it: a running mean, stopped when it stands still; and
    the products spent.
    """
    draws: list[float] = []
    trace = 0.0
    for _ in range(most):
        v = torch.randint(0, 2, (size,), generator=rng).double() * 2 - 1
        draws.append(float(v @ matvec(v)))
        mean = sum(draws) / len(draws)
        if abs(mean - trace) / (abs(trace) + 1e-6) < tolerance:
            break
        trace = mean
    return sum(draws) / len(draws), len(draws)


def lanczos_quadrature(
    matvec: Callable[[Tensor], Tensor], start: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of the spectral density by Lanczos from `start` (Lin, Saad and Yang
    2016, section 3.2).
    """
    Q = [start.double() / start.double().norm()]
    T = torch.zeros(steps, steps, dtype=torch.float64)
    for j in range(steps):
        w = matvec(Q[j].to(start.dtype)).double()
        T[j, j] = w @ Q[j]
        for q in Q + Q:
            w = w - (q @ w) * q
        if j + 1 < steps:
            T[j, j + 1] = T[j + 1, j] = w.norm()
            Q.append(w / w.norm())
    nodes, vectors = torch.linalg.eigh(T)
    return nodes, vectors[0] ** 2


def centring(m: int) -> Tensor:
    """Return I - 11^T / m."""
    return torch.eye(m, dtype=torch.float64) - torch.full((m, m), 1 / m, dtype=torch.float64)


def biased_cka(X: Tensor, Y: Tensor) -> float:
    """Return CKA of features (m, d), (m, d') by tr(X X^T H Y Y^T H) (Yang et al. 2021, equation
    2).
    """
    H = centring(len(X))

    def cov(A: Tensor, B: Tensor) -> float:
        A, B = A.double(), B.double()
        return float(torch.trace(A @ A.t() @ H @ B @ B.t() @ H)) / (len(A) - 1) ** 2

    return cov(X, Y) / math.sqrt(cov(X, X) * cov(Y, Y))


def unbiased_cka(X: Tensor, Y: Tensor) -> float:
    """Return CKA from the unbiased HSIC of Song et al. 2012, equation 5, term by term."""

    def hsic(A: Tensor, B: Tensor) -> float:
        A, B = A.double(), B.double()
        m = len(A)
        K, L = A @ A.t(), B @ B.t()
        K, L = K - torch.diag(K.diagonal()), L - torch.diag(L.diagonal())
        first = torch.trace(K @ L)
        second = K.sum() * L.sum() / ((m - 1) * (m - 2))
        third = 2 / (m - 2) * (K @ L).sum()
        return float(first + second - third) / (m * (m - 3))

    return hsic(X, Y) / math.sqrt(hsic(X, X) * hsic(Y, Y))


def expected_calibration_error(
    probabilities: Sequence[Sequence[float]], labels: Sequence[int], bins: int
) -> float:
    """Return ECE by a loop over bins (b/B, (b+1)/B] (Guo et al. 2017, equation 3)."""
    p = np.asarray(probabilities, dtype=np.float64)
    confidence, predicted = p.max(axis=1), p.argmax(axis=1)
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            accuracy = (predicted[inside] == np.asarray(labels)[inside]).mean()
            total += inside.mean() * abs(accuracy - confidence[inside].mean())
    return float(total)


Draw = tuple[Tensor, Tensor, float]
"""The inputs and labels of a batch, and a number from U(0, 1)."""


def _gradient_at(module: nn.Module, weights: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the mean cross-entropy for flat weights (P,)."""
    weights = weights.detach().requires_grad_()
    parameters, start = {}, 0
    for name, own in module.named_parameters():
        parameters[name] = weights[start : start + own.numel()].view(own.shape)
        start += own.numel()
    loss = cross_entropy(functional_call(module, parameters, (inputs,)), labels)
    (gradient,) = torch.autograd.grad(loss, weights)
    return gradient


def _flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def mined_w_peak(module: nn.Module, epochs: Sequence[Sequence[Draw]], eta: float) -> Tensor:
    """Algorithm 1 of Xu et al. 2024."""
    theta = _flat(module)
    epsilon = torch.zeros_like(theta)
    for e, batches in enumerate(epochs, start=1):
        alpha = e / len(epochs)
        for inputs, labels, u in batches:
            lam = alpha * (2 * u - 1)
            hat = theta + lam * epsilon
            epsilon = epsilon - eta * lam * _gradient_at(module, hat, inputs, labels)
    return epsilon


def mined_vvv_basin(
    module: nn.Module,
    phi: Tensor,
    epochs: Sequence[Sequence[Draw]],
    eta: float,
    alpha: float,
    gamma: float,
) -> Tensor:
    """Algorithm 2 of Xu et al. 2024 from a given phi."""
    theta = _flat(module)
    for batches in epochs:
        for inputs, labels, u in batches:
            lam = 0.5 - alpha + 2 * alpha * u
            hat = (1 - lam) * theta + lam * phi
            here = _gradient_at(module, phi, inputs, labels)
            phi = phi - eta * (here + gamma * lam * _gradient_at(module, hat, inputs, labels))
    return phi - theta
