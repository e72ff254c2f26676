"""Simplex volume and its gradient for the moving vertex, a training step's worth, against Cayley-Menger.

10 vertices of 176 thousand parameters, float32 weights, one thread, interleaved, medians. The alternative is what the published
code of Benton et al. 2021 does: a float32 Cayley-Menger determinant under autograd. It also says how far each is off.
"""

import math
import statistics
import time
from collections.abc import Callable

import torch

from phasegrid.metrics.volume import fix_faces, log_volume, log_volume_gradient, move_vertex
from tests.metric_oracles_curves import cayley_menger_squared_volume

NUM_VERTICES, NUM_PARAMETERS, ROUNDS = 10, 176_000, 25


def main() -> list[str]:
    """Return the ratio of a Cayley-Menger step to ours, the cost of preparing ours, and both errors."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    vertices = torch.randn(NUM_VERTICES, NUM_PARAMETERS, generator=generator) * 0.05
    faces = fix_faces(vertices[:1], vertices[1:-1])

    def ours() -> float:
        moving = move_vertex(faces, vertices[-1])
        log_volume_gradient(moving).float()
        return float(moving.log_volumes.logsumexp(dim=0))

    def peer() -> float:
        theta = vertices[-1].clone().requires_grad_()
        log_v = 0.5 * cayley_menger_squared_volume([*vertices[:-1], theta]).log()
        log_v.backward()
        return log_v.item()

    def prepare() -> float:
        return float(fix_faces(vertices[:1], vertices[1:-1]).log_volumes[0])

    def whole() -> float:
        return log_volume(vertices)

    seconds = _medians({"ours": ours, "peer": peer, "prepare": prepare, "whole": whole})
    off = {run.__name__: abs(math.expm1(run() - whole())) for run in (ours, peer)}
    ratio = seconds["peer"] / seconds["ours"]
    return [
        f"volume: float32 Cayley-Menger with autograd / ours, {NUM_VERTICES} vertices of {NUM_PARAMETERS // 1000}k, "
        f"value and gradient: {ratio:.2f}x ({1e3 * seconds['peer']:.1f} ms / {1e3 * seconds['ours']:.1f} ms; target 4x)",
        f"volume: relative error of V, Cayley-Menger {off['peer']:.1e}, ours {off['ours']:.1e}; once a connector "
        f"{1e3 * seconds['prepare']:.0f} ms of QR; log-volume from nothing {1e3 * seconds['whole']:.0f} ms",
    ]


def _medians(runs: dict[str, Callable[[], float]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}
