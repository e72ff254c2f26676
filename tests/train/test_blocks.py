"""Laws of flat vectors: every parameter begins where kernels want it, and the gaps are in no
result.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from train_support import CLASSES, make_data, make_trial

from phasegrid.jobs import Part
from phasegrid.metrics.connectivity import compute as connectivity
from phasegrid.metrics.hessian import compute as hessian
from phasegrid.metrics.simplex import compute as simplex
from phasegrid.metrics.slice import compute as slice_
from phasegrid.models import blocks
from phasegrid.models.blocks import ALIGNMENT, Blocks, FlatVector
from phasegrid.models.build import build_model
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.fused import read_architecture
from phasegrid.models.strategies import Strategy
from phasegrid.models.weights import parameters_vector
from phasegrid.train.loop import train_pack
from phasegrid.train.optimizers import new_slots, rates_at, step
from phasegrid.train.recipe import Recipe
from phasegrid.train.stack import MemberState, Stack

NETWORKS = [
    Part("small_cnn", 1, {"width": 3, "batch_norm": True}),
    Part("small_cnn", 1, {"width": 2, "batch_norm": False}),
    Part("mlp", 1, {"width": 5, "depth": 2, "activation": "relu"}),
]
SHORT = {"epochs": 1, "batch_size": 16}
PARAMETERS = {  # places of what belongs to the network among a kernel's arguments
    "aten::convolution": (1, 2),
    "aten::conv2d": (1, 2),
    "aten::linear": (1, 2),
    "aten::convolution_backward": (2,),
    "aten::native_batch_norm": (1, 2, 3, 4),
    "aten::native_batch_norm_backward": (2, 3, 4),
    "aten::addmm": (0, 2),
    "aten::bmm": (1,),
    "aten::baddbmm": (0, 2),
}


class Kernels(TorchDispatchMode):
    """Notes what kernels get as parameters: how many tensors, and those that do not begin at a
    multiple of 64 elements.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.crooked = 0, []  # type: ignore[var-annotated]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        for place in PARAMETERS.get(name, ()):
            # what is float64 is no network's: lengths and volumes are taken in it
            if isinstance(args[place], Tensor) and args[place].dtype == torch.float32:
                self.seen += 1
                if args[place].storage_offset() % ALIGNMENT:
                    self.crooked.append((name, place, tuple(args[place].shape)))
        return func(*args, **(kwargs or {}))


def network(part: Part, seed: int = 0) -> nn.Module:
    return build_model(part, (1, 8, 8), CLASSES, seed=seed)


def train(part: Part, strategy: Strategy) -> None:
    trials = [make_trial(seed, part, **SHORT) for seed in range(3)]
    train_pack(trials, [make_data()] * 3, device="cpu", strategy=strategy)


def measure(compute: Callable[..., object], part: Part, count: int, **args: object) -> None:
    nets = [network(part, seed).eval() for seed in range(count)]
    compute(nets, make_data(), torch.Generator().manual_seed(0), **args)


def measure_curves(part: Part) -> None:
    nets = [network(part, seed).eval() for seed in range(3)]
    rngs = [torch.Generator().manual_seed(seed) for seed in range(3)]
    pairs = [(0, 1), (1, 2), (2, 0)]
    assert connectivity.compute_many(nets, pairs, make_data(), rngs, points=3, **SHORT)


WORK: dict[str, Callable[[Part], None]] = {
    "loop": lambda part: train(part, "loop"),
    "vmap": lambda part: train(part, "vmap"),
    "fused": lambda part: train(part, "fused"),
    "merged": lambda part: train(part, "merged"),
    "curve": lambda part: measure(connectivity.compute, part, 2, points=3, **SHORT),
    "curves as one stack": measure_curves,
    "simplex": lambda part: measure(simplex.compute, part, 2, samples=2, eval_samples=2, **SHORT),
    "slice": lambda part: measure(slice_.compute, part, 1, points=3),
    "slice along eigenvectors": lambda part: measure(
        slice_.compute, part, 1, points=3, dimensions=1, directions="hessian"
    ),
    "Hessian": lambda part: measure(hessian.compute, part, 1, steps=2),
    "Hessian of batch statistics": lambda part: measure(
        hessian.compute, part, 1, steps=2, batch_norm="train", trace="hutchinson"
    ),
}


@pytest.mark.parametrize("what", WORK)
@pytest.mark.parametrize("part", NETWORKS, ids=lambda part: f"{part.name} {part.args['width']}")
def test_kernels_get_every_parameter_at_a_multiple_of_64_elements(part: Part, what: str) -> None:
    with Kernels() as kernels:
        WORK[what](part)
    assert kernels.seen > 10
    assert kernels.crooked == []


def test_parameters_without_gaps_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "ALIGNMENT", 1)
    # not the Hessian, whose parameters and vectors are tensors of their own
    for what in ("loop", "fused", "curve", "curves as one stack", "simplex", "slice"):
        with Kernels() as kernels:
            WORK[what](NETWORKS[1])
        assert kernels.crooked, what


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_gaps_stay_zero_whatever_an_optimizer_does(optimizer: Any) -> None:
    recipe = Recipe(optimizer=optimizer)
    nets = [network(NETWORKS[0], seed) for seed in range(2)]
    states = [
        MemberState(dict(net.state_dict()), new_slots(recipe, parameters_vector(net)))
        for net in nets
    ]
    stack = Stack(nets[0], states, "fused", read_architecture(nets[0]))
    lr = stack.network.per_element([0.1, 0.2])
    data = make_data(16)
    inputs, labels = data.train_inputs.expand(2, 16, 1, 8, 8), data.train_labels.repeat(2)
    for update in range(3):
        stack.network.grads.zero_()
        cross_entropy(stack.network.forward(inputs).flatten(0, 1), labels).backward()
        rates = rates_at(recipe, lr, 0.1, 1.0, update)
        step(recipe, stack.network.weights, stack.network.grads, stack.slots, lr, 0.1, rates)
    for vector in (stack.network.weights, stack.network.grads, *stack.slots.values()):
        places = Blocks.of(p.shape for p in stack.network.parameters.values())
        for view in places.views(vector):
            assert view.count_nonzero() > 0
            view.zero_()
        assert vector.count_nonzero() == 0


def test_what_leaves_a_flat_vector_has_no_gaps() -> None:
    net = network(NETWORKS[0])
    flat, own = FlatNetwork.of(net), parameters_vector(net)
    assert flat.rows().shape == flat.gradient().shape == (1, len(own))
    recipe = Recipe(optimizer="sgd")
    state = MemberState(dict(net.state_dict()), new_slots(recipe, own))
    assert Stack(net, [state], "loop").member(0).slots["momentum"].shape == own.shape
    two = FlatNetwork(net, [net.state_dict()] * 2, "fused", read_architecture(net))
    two.forward(torch.ones(2, 4, 1, 8, 8)).sum().backward()
    assert two.gradient().shape == two.rows().shape == (2, len(own))


def test_what_is_filled_from_rows_reads_as_them_and_keeps_its_gaps_zero() -> None:
    for num in (1, 2):
        places = Blocks.of([(num, 3, 30), (num,), (num, 2, 1)])
        filled = FlatVector(places, torch.zeros(places.length), num)
        for rows in (torch.arange(93.0 * num), torch.arange(93.0 * num, dtype=torch.float64) - 5):
            rows = rows.view(num, 93)
            filled.fill(rows)
            assert [tuple(view.shape) for view in filled.views] == [*places.shapes]
            assert torch.equal(filled.read(), rows.float())
            assert [view.storage_offset() for view in filled.views] == [*places.starts]
            assert float(filled.vector.sum()) == float(rows.sum())


@pytest.mark.gpu
@pytest.mark.parametrize("what", WORK)
@pytest.mark.parametrize("width", [1, 2, 3])
def test_odd_widths_run_on_a_gpu(width: int, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a parameter at a crooked address ends the process's CUDA context."""
    data = make_data()
    place = torch.device("cuda")
    monkeypatch.setitem(globals(), "make_data", lambda: data.to(place))
    own = network
    monkeypatch.setitem(globals(), "network", lambda part, seed=0: own(part, seed).to(place))
    part = Part("small_cnn", 1, {"width": width, "batch_norm": True})
    if what in ("loop", "vmap", "fused"):
        trials = [make_trial(seed, part, **SHORT) for seed in range(3)]
        train_pack(trials, [data] * 3, device=place, strategy=what)
    else:
        WORK[what](part)
    torch.cuda.synchronize()
