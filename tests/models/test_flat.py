"""Laws of networks on flat vectors: alone, and several as one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from phasegrid.models.flat import FlatNetwork
from phasegrid.models.fused import read_architecture
from phasegrid.models.strategies import Strategy
from phasegrid.models.weights import cpu_state, num_parameters, parameters_vector


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 4)
        ).double()


def batch(num: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num)
    inputs = torch.randn(num, 5, 1, 4, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.tensor([0, 1, 2, 3, 0]).expand(num, 5)


def loop() -> tuple[FlatNetwork, list[nn.Module]]:
    return FlatNetwork.of(network()), [network()]


def stacked(strategy: Strategy) -> Callable[[], tuple[FlatNetwork, list[nn.Module]]]:
    def make() -> tuple[FlatNetwork, list[nn.Module]]:
        nets = [network(seed) for seed in range(3)]
        blueprint = read_architecture(nets[0]) if strategy == "fused" else None
        states = [cpu_state(net) for net in nets]
        return FlatNetwork(network(), states, strategy, blueprint), nets

    return make


WAYS = {"loop": loop, "vmap": stacked("vmap"), "fused": stacked("fused")}


def rows_of(nets: list[nn.Module]) -> Tensor:
    return torch.stack([parameters_vector(net) for net in nets])


def gradients(nets: list[nn.Module], inputs: Tensor, labels: Tensor) -> Tensor:
    found = []
    for net, x, y in zip(nets, inputs, labels, strict=True):
        grads = torch.autograd.grad(cross_entropy(net(x), y), list(net.parameters()))
        found.append(torch.cat([grad.flatten() for grad in grads]))
    return torch.stack(found)


@pytest.mark.parametrize("way", WAYS)
def test_rows_are_the_weights_and_put_there_whatever_is_assigned(way: str) -> None:
    flat, nets = WAYS[way]()
    rows = rows_of(nets)
    torch.testing.assert_close(flat.rows(), rows, rtol=0, atol=0)
    flat.assign(2 * rows.float())
    torch.testing.assert_close(flat.rows(), 2 * rows.float().double(), rtol=0, atol=0)
    states = [flat.state(i) for i in range(len(nets))]
    found = torch.stack(
        [torch.cat([state[n].flatten() for n, _ in nets[0].named_parameters()]) for state in states]
    )
    torch.testing.assert_close(found, flat.rows(), rtol=0, atol=0)
    assert flat.rows().shape == (len(nets), num_parameters(nets[0]))


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_those_of_the_networks_at_the_point_and_add_up(way: str) -> None:
    flat, nets = WAYS[way]()
    inputs, labels = batch(len(nets))
    rows = 0.5 * rows_of(nets)
    flat.assign(rows)
    for net, row in zip(nets, rows, strict=True):
        torch.nn.utils.vector_to_parameters(row, net.parameters())
    expected = gradients(nets, inputs, labels)
    for times in (1.0, 2.0):
        logits = flat.forward(inputs)
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / 5
        loss.backward()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(flat.gradient(), times * expected)
    flat.zero_grad()
    assert flat.gradient().count_nonzero() == 0


@pytest.mark.parametrize("way", WAYS)
def test_statistics_are_each_networks_own(way: str) -> None:
    flat, nets = WAYS[way]()
    inputs, _ = batch(len(nets))
    flat.forward(inputs)
    for i, net in enumerate(nets):
        net(inputs[i])
        torch.testing.assert_close(flat.state(i), dict(net.state_dict()))


def test_statistics_of_the_batch_can_be_taken_and_not_kept() -> None:
    nets = [network(seed) for seed in range(3)]
    states = [cpu_state(net) for net in nets]
    flat = FlatNetwork(network(), states, "fused", read_architecture(nets[0]), False)
    inputs, _ = batch(3)
    expected = torch.stack([net(x) for net, x in zip(nets, inputs, strict=True)])
    torch.testing.assert_close(flat.forward(inputs), expected)
    for i, state in enumerate(states):
        torch.testing.assert_close(flat.state(i), state, rtol=0, atol=0)


def test_a_copy_leaves_the_network_as_it_was() -> None:
    net = network()
    before = cpu_state(net)
    flat = FlatNetwork.of(net)
    flat.assign(torch.zeros(num_parameters(net)))
    assert flat.forward(batch(1)[0]).abs().max() == 0
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)


def test_what_does_not_train_is_in_no_row() -> None:
    net = nn.Linear(3, 2)
    net.bias.requires_grad_(False)
    flat = FlatNetwork.of(net)
    assert flat.rows().shape == (1, 6)
    assert "bias" in flat.constants
    with pytest.raises(ValueError, match="ReLU has no trainable parameter"):
        FlatNetwork.of(nn.ReLU())
