"""CKA of all pairs of five seeds against running both models again for each ordered pair.

The other way is that of the published code of Yang et al. 2021: 25 ordered pairs, both models run
on the inputs each time, Gram matrices centred by products with I - 11^T/m. Times are CPU seconds of
one thread.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.cka import CkaArgs
from phasegrid.metrics.cka.compute import compute_many
from phasegrid.metrics.cka.inputs import draw_probe
from phasegrid.models.resnet import make
from tests.oracles import biased_cka

T = TypeVar("T")

SEEDS, EXAMPLES, WIDTH = 5, 640, 4
LAYERS = ("softmax", "stage4")


def main() -> list[str]:
    torch.set_num_threads(1)
    models = [_untrained(seed) for seed in range(SEEDS)]
    data = _dataset()
    settings = CkaArgs(examples=EXAMPLES, layers=LAYERS)
    pairs = [(a, b) for a in range(SEEDS) for b in range(SEEDS)]
    args = {name: getattr(settings, name) for name in CkaArgs.__dataclass_fields__}
    rngs = [torch.Generator() for _ in pairs]
    tables, ours_s = _timed(lambda: compute_many(models, pairs, data, rngs, **args))
    inputs = draw_probe(data, settings).inputs
    theirs, theirs_s = _timed(
        lambda: [_by_gram(_run(models[a], inputs), _run(models[b], inputs)) for a, b in pairs]
    )
    exact = biased_cka(_run(models[0], inputs)[0], _run(models[1], inputs)[0])
    ours_off, theirs_off = abs(float(tables[1][0]["cka"] or 0) - exact), abs(theirs[1][0] - exact)
    return [
        f"cka_all_pairs_resnet18_w{WIDTH}_{SEEDS}_seeds: {theirs_s / ours_s:.1f}x vs both models"
        f" run again for each of {len(pairs)} ordered pairs ({EXAMPLES} images, layers"
        f" {', '.join(LAYERS)}); ours {ours_s:.2f} CPU seconds; error at softmax, pair 0-1: ours"
        f" {ours_off:.0e}, theirs in float32 {theirs_off:.0e}"
    ]


def _run(module: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Return softmax outputs and the features of the last stage, batch by batch."""
    assert isinstance(module, nn.Sequential)
    caught: list[Tensor] = []
    hook = module.get_submodule("stage4").register_forward_hook(partial(_keep, caught))
    with torch.no_grad():
        outputs = torch.cat([module(batch).softmax(1) for batch in inputs.split(128)])
    hook.remove()
    return [outputs, torch.cat(caught)]


def _keep(caught: list[Tensor], _layer: nn.Module, _args: object, output: Tensor) -> None:
    caught.append(output.flatten(1))


def _by_gram(first: list[Tensor], second: list[Tensor]) -> list[float]:
    values = []
    for X, Y in zip(first, second, strict=True):
        m = len(X)
        H = torch.eye(m) - 1 / m
        K, L = H @ (X @ X.t()) @ H, H @ (Y @ Y.t()) @ H
        values.append(float((K * L).sum() / (K.norm() * L.norm())))
    return values


def _untrained(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make((3, 32, 32), 10, width=WIDTH).eval()


def _dataset() -> Dataset:
    inputs = torch.randn(2000, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2000, dtype=torch.int64)
    one = torch.ones(3, 1, 1)
    return Dataset("random", inputs, labels, inputs[:1], labels[:1], 10, one, one)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


if __name__ == "__main__":
    print("\n".join(main()))
