"""Laws of the path through the origin: an exact oracle for what depends on logits alone."""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from point_support import dataset, generator, seeded
from torch import Tensor, nn
from torch.nn import functional

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.jobs import Part
from phasegrid.metrics import METRICS
from phasegrid.metrics.network.points import Row
from phasegrid.metrics.origin_path.compute import compute, layers_in_order
from phasegrid.models.build import build_model
from phasegrid.models.evaluation import evaluate

CLASSES = 3


def data(*shape: int) -> Dataset:
    rng = generator(3)
    inputs = torch.randn(40, *shape, generator=rng, dtype=torch.float64)
    return dataset(inputs, torch.arange(40) % CLASSES, CLASSES)


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(),
        nn.Dropout(0.5), nn.Linear(5, CLASSES),
    )  # fmt: skip


class Written(nn.Module):
    """A chain that is written in its forward, in another order than that of its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, CLASSES)
        self.first = nn.Linear(72, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.last(functional.relu(self.first(torch.flatten(x, 1))))
        return hidden


def path(make: Callable[[], nn.Module], points: int = 11) -> tuple[nn.Module, Row]:
    module = seeded(make)
    return module, compute([module], data(2, 6, 6), generator(0), points=points)


@pytest.mark.parametrize(("make", "num_layers"), [(chain, 3), (Written, 2)])
def test_logits_scale_by_t_to_the_number_of_layers(
    make: Callable[[], nn.Module], num_layers: int
) -> None:
    _, row = path(make)
    assert row["num_layers"] == num_layers
    assert isinstance(row["scaling_error"], float)
    assert row["scaling_error"] < 1e-13
    assert row["num_changed"] == 0


@pytest.mark.parametrize("make", [chain, Written])
def test_the_loss_is_that_of_scaled_logits_and_rises_to_the_log_of_the_classes(
    make: Callable[[], nn.Module],
) -> None:
    module, row = path(make)
    own, power = data(2, 6, 6), row["num_layers"]
    assert isinstance(row["t"], list)
    assert isinstance(power, int)
    with torch.no_grad():
        logits = module(own.train_inputs)
    expected = [
        float(functional.cross_entropy(t**power * logits, own.train_labels)) for t in row["t"]
    ]
    assert row["train_loss"] == pytest.approx(expected, rel=1e-12)
    assert row["train_loss"][0] == pytest.approx(math.log(CLASSES), rel=1e-15)


def test_the_error_is_the_same_everywhere_but_at_the_origin() -> None:
    module, row = path(chain)
    own = data(2, 6, 6)
    for part in ("train", "test"):
        sets = getattr(own, f"{part}_inputs"), getattr(own, f"{part}_labels")
        error = evaluate(module, *sets).error_percent
        assert row[f"{part}_error_percent"] == [None, *[error] * 10]


def test_the_path_ends_at_the_network_which_is_not_touched() -> None:
    module = seeded(chain)
    before = copy.deepcopy(module.state_dict())
    row = compute([module], data(2, 6, 6), generator(0), points=2)
    assert (
        row["train_loss"][-1]
        == evaluate(module, data(2, 6, 6).train_inputs, data(2, 6, 6).train_labels).loss
    )
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_row_has_the_declared_columns() -> None:
    _, row = path(chain)
    assert list(row) == [column.name for column in METRICS["origin_path"].columns]


@pytest.mark.parametrize(
    ("part", "num_layers"),
    [
        (Part("mlp", 1, {"width": 6, "depth": 2, "activation": "relu"}), 3),
        (Part("small_cnn", 1, {"width": 2, "batch_norm": False}), 3),
        (Part("conv3fc3", 1, {"width": 4}), 6),
    ],
)
def test_chains_among_the_built_in_networks_have_the_path(part: Part, num_layers: int) -> None:
    module = build_model(part, (1, 16, 16), CLASSES, 0).double().eval()
    row = compute([module], data(1, 16, 16), generator(0), points=3)
    assert (row["num_layers"], row["num_changed"]) == (num_layers, 0)


class Skipping(nn.Module):
    """A residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(72, 72)
        self.last = nn.Linear(72, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        hidden: Tensor = self.last(x + functional.relu(self.inner(x)))
        return hidden


class Doubling(Written):
    """Something that the path knows nothing about."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x) + 1


def twice() -> nn.Module:
    layer = nn.Linear(72, 72)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(72, CLASSES))


def with_layer(layer: nn.Module) -> nn.Module:
    named = OrderedDict(flat=nn.Flatten(), one=nn.Linear(72, 4), odd=layer)
    named["last"] = nn.Linear(4, CLASSES)
    return nn.Sequential(named)


def hooked() -> nn.Module:
    module = chain()
    module[1].register_forward_hook(lambda *_: None)  # type: ignore[index]
    return module


class Untraceable(Written):
    """A forward that looks at its values."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if bool(x.sum() > 0) else -x)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: with_layer(nn.BatchNorm1d(4)), r"it runs layer 'odd' \(BatchNorm1d"),
        (lambda: with_layer(nn.Tanh()), r"it runs layer 'odd' \(Tanh"),
        (twice, "it runs layer '1'"),
        (Skipping, "at .* it is no chain: something skips layers or joins them"),
        (Doubling, "it runs mul"),
        (hooked, "1 has hooks"),
        (Untraceable, "it cannot be traced"),
    ],
)
def test_networks_without_the_path_are_refused(make: Callable[[], nn.Module], why: str) -> None:
    with pytest.raises(MetricError, match=rf"a network of which {why}.*Allowed: linear layers"):
        layers_in_order(seeded(make))


def test_the_path_is_of_one_model() -> None:
    with pytest.raises(MetricError, match="is of one model, got 2"):
        compute([chain(), chain()], data(2, 6, 6), generator(0))
