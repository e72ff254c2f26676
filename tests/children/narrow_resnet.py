"""Train ResNet18 of a few channels and measure it in every way that runs its convolutions.

Run in a process of its own: where a library writes past its buffers it dies. The last line on
stdout says what was begun last.
"""

import sys
from dataclasses import asdict

import torch

from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import Part, Trial
from phasegrid.metrics.connectivity import compute as connectivity
from phasegrid.metrics.hessian import compute as hessian
from phasegrid.metrics.simplex import compute as simplex
from phasegrid.metrics.slice import compute as slice_
from phasegrid.models.build import build_model
from phasegrid.train.loop import train_pack
from phasegrid.train.recipe import Recipe

NUM, CLASSES = 16, 4
SHORT = {"epochs": 1, "batch_size": 8}
MEASURES = {
    "curve": (connectivity.compute, 2, {"points": 3, **SHORT}),
    "simplex": (simplex.compute, 2, {"samples": 1, "eval_samples": 2, **SHORT}),
    "slice": (slice_.compute, 1, {"points": 3, "directions": "hessian", "dimensions": 1}),
    "Hessian": (hessian.compute, 1, {"steps": 3}),
    "Hessian of batch statistics": (hessian.compute, 1, {"steps": 3, "batch_norm": "train"}),
}


def make_data() -> Dataset:
    """Make a few random images."""
    rng = torch.Generator().manual_seed(0)
    images, labels = torch.randn(NUM, 3, 16, 16, generator=rng), torch.arange(NUM) % CLASSES
    one = torch.ones(3, 1, 1)
    return Dataset("random", images, labels, images, labels, CLASSES, one, 0 * one, "none")


def run(width: int) -> None:
    """Train two networks of a width, both ways, and measure them."""
    part, data = Part("resnet18", 1, {"width": width}), make_data()
    recipe = asdict(Recipe(**SHORT, stop=None))  # type: ignore[arg-type]
    trials = [Trial(f"trial-{seed}", Part("random", 1, {}), part, recipe, seed) for seed in (0, 1)]
    for strategy in ("loop", "fused"):
        print(width, strategy, flush=True)
        trained = train_pack(trials, [data] * 2, device="cpu", strategy=strategy)
    nets = [build_model(part, data.input_shape, CLASSES, seed=0) for _ in trained]
    for net, result in zip(nets, trained, strict=True):
        net.load_state_dict(result.weights)
        net.eval()
    for name, (compute, count, args) in MEASURES.items():
        print(width, name, flush=True)
        row = compute(nets[:count], data, torch.Generator().manual_seed(0), **args)
        assert row


if __name__ == "__main__":
    torch.set_num_threads(1)
    for width in map(int, sys.argv[1:]):
        run(width)
    print("whole")
