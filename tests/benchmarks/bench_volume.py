"""Simplex volume and its gradient for the moving vertex, a training step's worth, against
Cayley-Menger.

10 vertices of 176 thousand parameters, float32 weights, one thread, interleaved, medians. The
alternative is a float32 Cayley-Menger determinant under autograd, in the steps of the published
code of Benton et al. 2021 (vertices copied into a matrix, distances from their expanded square,
rooted and squared again) and without its detours. It also says how far each is off.
"""

import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from phasegrid.metrics.simplex.moving import fix_faces, log_volume_gradient, move
from phasegrid.metrics.simplex.volume import log_volume
from tests.metric_oracles_curves import cayley_menger_squared_volume

NUM_VERTICES, NUM_PARAMETERS, ROUNDS = 10, 176_000, 25


def main() -> list[str]:
    """Return the ratio of a Cayley-Menger step to ours, the cost of preparing ours, and both
    errors.
    """
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    vertices = torch.randn(NUM_VERTICES, NUM_PARAMETERS, generator=generator) * 0.05
    batch, simplex = vertices.unsqueeze(0), (tuple(range(NUM_VERTICES)),)
    faces = fix_faces(batch, simplex)

    def ours() -> float:
        moved = move(faces, batch[:, -1])
        log_volume_gradient(faces, moved).float()
        return float(moved.log_volumes)

    def published() -> float:
        theta = vertices[-1].clone().requires_grad_()
        log_v = 0.5 * _published_squared_volume(vertices[:-1], theta).log()
        log_v.backward()
        return log_v.item()

    def lean() -> float:
        theta = vertices[-1].clone().requires_grad_()
        log_v = 0.5 * cayley_menger_squared_volume([*vertices[:-1], theta]).log()
        log_v.backward()
        return log_v.item()

    def prepare() -> float:
        return float(fix_faces(batch, simplex).log_volumes)

    def whole() -> float:
        return log_volume(vertices)

    runs = {run.__name__: run for run in (ours, published, lean, prepare, whole)}
    ms = {name: 1e3 * seconds for name, seconds in _medians(runs).items()}
    off = {name: abs(math.expm1(runs[name]() - whole())) for name in ("ours", "published", "lean")}
    size = f"{NUM_VERTICES} vertices of {NUM_PARAMETERS // 1000}k, value and gradient"
    return [
        (
            f"volume: float32 Cayley-Menger as published / ours, {size}:"
            f" {ms['published'] / ms['ours']:.2f}x ({ms['published']:.1f} ms / {ms['ours']:.1f} ms;"
            f" target 4x; error of V {off['published']:.1e} / {off['ours']:.1e})"
        ),
        (
            f"volume: float32 Cayley-Menger, bare / ours, {size}: {ms['lean'] / ms['ours']:.2f}x "
            f"({ms['lean']:.1f} ms / {ms['ours']:.1f} ms; error of V {off['lean']:.1e})"
        ),
        (
            f"volume: once a connector {ms['prepare']:.0f} ms of QR; log-volume from nothing"
            f" {ms['whole']:.0f} ms"
        ),
    ]


def _published_squared_volume(fixed: Tensor, theta: Tensor) -> Tensor:
    rows = torch.zeros(NUM_VERTICES, NUM_PARAMETERS)
    for index, vertex in enumerate([*fixed, theta]):
        rows[index, :] = vertex
    centred = rows - rows.mean(dim=0)
    norms, one = centred.square().sum(dim=1, keepdim=True), torch.ones(NUM_VERTICES, 1)
    left, right = torch.cat([-2 * centred, norms, one], 1), torch.cat([centred, one, norms], 1)
    distances = (left @ right.t()).clamp(min=1e-30).sqrt()
    bordered = torch.ones(NUM_VERTICES + 1, NUM_VERTICES + 1) - torch.eye(NUM_VERTICES + 1)
    bordered[:NUM_VERTICES, :NUM_VERTICES] = distances.square()
    dimension = NUM_VERTICES - 1
    return torch.det(bordered).abs() / (math.factorial(dimension) ** 2 * 2.0**dimension)


def _medians(runs: dict[str, Callable[[], float]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}
