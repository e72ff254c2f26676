"""Laws of the tools on weights."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from phasegrid import estimates
from phasegrid.models import weights as tools
from phasegrid.models.evaluation import evaluate
from phasegrid.tasks.batches import cut
from phasegrid.tasks.losses import Criterion
from phasegrid.tasks.losses import cross_entropy as per_label
from phasegrid.tasks.operations import MOST, evaluation_batch
from phasegrid.tasks.scoring import Scoring


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bn_net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(3 * 4, 4),
        ).double()


def test_frozen_parameters_are_not_in_the_vector() -> None:
    net = nn.Linear(3, 2)
    net.bias.requires_grad_(False)
    assert tools.parameters_vector(net).shape == (6,)
    assert tools.num_parameters(net) == 6
    assert [s.name for s in tools.parameter_slices(net)] == ["weight"]


def test_a_module_without_parameters_has_no_vector() -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        tools.parameters_vector(nn.ReLU())


def test_distance_of_the_three_four_five_triangle() -> None:
    assert tools.l2_distance(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])) == 5.0


def test_refresh_in_one_batch_gives_the_moments_of_the_data() -> None:
    net = bn_net()
    x = torch.randn(40, 1, 4, 4, generator=seeded(2), dtype=torch.float64) + 3
    tools.refresh_batch_norm(net, x, batch_size=100)
    out = net[0](x).detach()  # type: ignore[index]
    bn = tools.batch_norm_modules(net)[0]
    torch.testing.assert_close(bn.running_mean, out.mean((0, 2, 3)))
    torch.testing.assert_close(bn.running_var, out.var((0, 2, 3), unbiased=True))


def test_refresh_weights_batches_by_their_size_and_restores_everything() -> None:
    net = bn_net()
    net.train()
    tools.batch_norm_modules(net)[0].momentum = 0.3
    x = torch.randn(25, 1, 4, 4, generator=seeded(3), dtype=torch.float64)
    tools.refresh_batch_norm(net, x, batch_size=10)
    out = net[0](x).detach()  # type: ignore[index]
    parts = [out[:10], out[10:20], out[20:]]
    var = sum(len(p) * p.var((0, 2, 3)) for p in parts) / 25
    bn = tools.batch_norm_modules(net)[0]
    torch.testing.assert_close(bn.running_mean, out.mean((0, 2, 3)))
    torch.testing.assert_close(bn.running_var, var)
    assert bn.momentum == 0.3
    assert all(m.training for m in net.modules())


def test_refresh_does_not_depend_on_what_was_there_nor_on_dropout() -> None:
    x = torch.randn(21, 1, 4, 4, generator=seeded(4), dtype=torch.float64)
    a, b = bn_net(), bn_net()
    tools.batch_norm_modules(b)[0].running_mean.fill_(7)  # type: ignore[union-attr]
    tools.refresh_batch_norm(a, x, 10)
    tools.refresh_batch_norm(b.eval(), x, 10)
    torch.testing.assert_close(tools.cpu_state(a), tools.cpu_state(b), rtol=0, atol=0)


def test_refresh_without_batch_norm_does_nothing() -> None:
    net = nn.Linear(3, 2)
    before = tools.cpu_state(net)
    tools.refresh_batch_norm(net, torch.ones(4, 3))
    torch.testing.assert_close(tools.cpu_state(net), before, rtol=0, atol=0)
    assert not tools.has_batch_norm(net)
    assert tools.has_batch_norm(bn_net())


def test_a_lone_last_example_joins_the_batch_before() -> None:
    assert cut(21, 10) == [slice(0, 10), slice(10, 21)]
    assert cut(20, 10) == [slice(0, 10), slice(10, 20)]
    assert cut(1, 10) == [slice(0, 1)]


def test_evaluation_of_equal_logits_is_log_of_the_number_of_classes() -> None:
    net = nn.Linear(3, 4)
    nn.utils.vector_to_parameters(torch.zeros(16), net.parameters())
    result = evaluate(net, torch.ones(8, 3), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]), batch_size=3)
    assert result.loss == pytest.approx(math.log(4), abs=1e-12)
    assert (result.accuracy_percent, result.error_percent, result.num) == (25.0, 75.0, 8)


def test_evaluation_does_not_depend_on_the_batches_and_restores_modes() -> None:
    net = bn_net().train()
    x = torch.randn(17, 1, 4, 4, generator=seeded(5), dtype=torch.float64)
    y = torch.randint(0, 4, (17,), generator=seeded(6))
    scoring = Scoring(objective=Criterion(partial(per_label, label_smoothing=0.1)))
    whole, parts = (evaluate(net, x, y, scoring, size) for size in (100, 5))
    assert whole.loss == pytest.approx(parts.loss, abs=1e-12)
    assert net.training
    oracle = cross_entropy(net.eval()(x), y, label_smoothing=0.1)
    assert whole.loss == pytest.approx(oracle.item(), abs=1e-12)


class Small(nn.Module):
    """A network on a device with room for so many examples."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x


def test_batches_that_do_not_fit_are_halved() -> None:
    inputs, labels = torch.eye(9), torch.arange(9)
    small = Small(3)
    found, whole = (evaluate(net, inputs, labels) for net in (small, nn.Identity()))
    assert found.num == whole.num == 9
    assert found.loss == pytest.approx(whole.loss, rel=1e-14)
    assert small.sizes == [9, 4, 2, 2, 2, 2, 1]
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(Small(0), inputs, labels)


def test_evaluating_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="empty set"):
        evaluate(nn.Linear(3, 2), torch.ones(0, 3), torch.ones(0, dtype=torch.int64))


@pytest.mark.parametrize(
    ("shape", "batch"),
    [((3, 32, 32), 128), ((3, 64, 64), 128), ((1, 28, 28), 501), ((1, 8, 8), 1000), ((8,), 1000), ((0,), 1000)],
)  # fmt: skip
def test_a_cpu_evaluates_as_many_examples_at_a_time_as_its_cache_holds(
    shape: tuple[int, ...], batch: int
) -> None:
    assert evaluation_batch(torch.zeros(2, *shape)) == batch


def test_planning_knows_the_largest_batch_of_an_evaluation() -> None:
    assert estimates.EVALUATED == MOST
