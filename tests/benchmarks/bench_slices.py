"""A plane of 41 x 41 points through ResNet18 of width 8 against a state dict built and loaded for
every point.

The other way: at each point a new state dict w + a d_1 + b d_2, `load_state_dict`, and the plain
network on the images as they lie (no channels last, BatchNorm not folded) under inference mode, in
batches of 128 (the published code of Li et al. 2018) or of up to 1,000 (the default of
`phasegrid.models.weights.evaluate`). All points cost the same, so what is timed is a few points of
a row, in CPU seconds of one thread, best of several rounds in which all take turns.
"""

import copy
import time
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from phasegrid.metrics.directions.drawing import draw_directions
from phasegrid.metrics.directions.scaling import normalise
from phasegrid.metrics.slice.compute import symmetric_axis
from phasegrid.metrics.slice.evaluation import MovingNetwork, make_examples, measure_slice
from phasegrid.models.evaluation import evaluate
from phasegrid.models.resnet import make
from phasegrid.models.weights import parameter_slices, refresh_batch_norm
from phasegrid.tasks.scoring import CLASSIFICATION

POINTS, TIMED, EXAMPLES, ROUNDS = 41, 3, 1000, 7
PLAIN_BATCHES = (128, 1000)


def main() -> list[str]:
    torch.set_num_threads(1)
    module, inputs, labels = _network()
    lines = []
    for policy in ("as_saved", "refreshed"):
        refresh = inputs if policy == "refreshed" else None
        moving = {p: MovingNetwork(module, refresh, p) for p in ("fp32", "bf16")}  # type: ignore[arg-type]
        ours = moving["fp32"].flat
        weights, slices = ours.rows()[0], parameter_slices(ours.module)
        d = normalise(_draw(weights), weights, slices, "filter", keep_biases=False)
        row = symmetric_axis(POINTS, 1.0)[POINTS // 2 :][:TIMED]
        ways: dict[str, Callable[[], Tensor]] = {
            precision: _ours(network, d, row, inputs, labels)
            for precision, network in moving.items()
        }
        for size in PLAIN_BATCHES:
            ways[f"batches of {size}"] = _theirs(module, d, row, inputs, labels, refresh, size)
        seconds, found = _take_turns(ways)
        off = float((found["fp32"] / found["batches of 128"] - 1).abs().max())
        rough = float((found["bf16"] / found["batches of 128"] - 1).abs().max())
        ratios = ", ".join(
            f"{seconds[name] / seconds['fp32']:.2f}x vs {name}"
            for name in ways
            if "batches" in name
        )
        plane_s = POINTS**2 / TIMED * seconds["fp32"]
        lines.append(
            f"slice_{POINTS}x{POINTS}_resnet18_w8_{EXAMPLES}_images {policy}: {ratios}; ours"
            f" {plane_s:.0f} CPU seconds, largest relative difference of a loss {off:.0e}; bf16"
            f" {seconds['fp32'] / seconds['bf16']:.2f}x ours (loss off by {rough:.0e})"
        )
    return [*lines, _bound(module, inputs, labels)]


def _take_turns(
    ways: dict[str, Callable[[], Tensor]],
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the best CPU seconds of each way for the points timed, and the losses it found."""
    seconds = dict.fromkeys(ways, float("inf"))
    found: dict[str, Tensor] = {}
    for _, (name, way) in product(range(ROUNDS), ways.items()):
        started = time.process_time()
        found[name] = way()
        seconds[name] = min(seconds[name], time.process_time() - started)
    return seconds, found


def _ours(
    network: MovingNetwork, d: Tensor, row: list[float], inputs: Tensor, labels: Tensor
) -> Callable[[], Tensor]:
    examples = make_examples(network, inputs, labels, CLASSIFICATION)
    return lambda: measure_slice(network, d[:1], row, [examples])[0, 0, :, 0]


def _theirs(
    module: nn.Module,
    d: Tensor,
    row: list[float],
    inputs: Tensor,
    labels: Tensor,
    refresh: Tensor | None,
    size: int,
) -> Callable[[], Tensor]:
    point = copy.deepcopy(module)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    named = dict(module.named_parameters())
    sizes = [p.numel() for p in named.values()]
    parts = [
        {
            name: part.view(named[name].shape)
            for name, part in zip(named, one.split(sizes), strict=True)
        }
        for one in d
    ]

    def run() -> Tensor:
        losses = []
        for a in row:
            moved = {
                name: value + a * parts[0][name] + 0.0 * parts[1][name] if name in named else value
                for name, value in state.items()
            }
            point.load_state_dict(moved)
            if refresh is not None:
                refresh_batch_norm(point, refresh)
            losses.append(evaluate(point, inputs, labels, batch_size=size).loss)
        return torch.tensor(losses, dtype=torch.float64)

    return run


def _bound(module: nn.Module, inputs: Tensor, labels: Tensor) -> str:
    """Say where the time of a point goes."""
    network = MovingNetwork(module)
    examples = make_examples(network, inputs, labels, CLASSIFICATION)
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        for _ in range(3):
            network.settle()
            network.measure(examples)
    own = {
        event.key: event.self_cpu_time_total
        for event in watched.key_averages()
        if event.device_type == DeviceType.CPU
    }
    total, convolutions = sum(own.values()), own.get("aten::mkldnn_convolution", 0.0)
    return (
        f"slice point, as_saved: {100 * convolutions / total:.0f}% of our time is in the"
        " convolution kernels"
    )


def _network() -> tuple[nn.Module, Tensor, Tensor]:
    """Train a ResNet18 of width 8 a little on faint patterns, one a class, in noise."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (EXAMPLES,), generator=rng)
    patterns = torch.randn(10, 3, 32, 32, generator=rng)
    inputs = 0.3 * patterns[labels] + torch.randn(EXAMPLES, 3, 32, 32, generator=rng)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = make((3, 32, 32), 10, width=8)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for _ in range(30):
        chosen = torch.randint(0, EXAMPLES, (50,), generator=rng)
        optimizer.zero_grad()
        cross_entropy(module(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
    refresh_batch_norm(module, inputs)
    return module.eval(), inputs, labels


def _draw(weights: Tensor) -> Tensor:
    return draw_directions(2, weights, torch.Generator().manual_seed(0))


if __name__ == "__main__":
    print("\n".join(main()))
