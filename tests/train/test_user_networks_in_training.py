"""Laws of training networks whose forward does what ours do not: assigns, draws, counts, computes
its weights.
"""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_snapshots import Killed, Memory, assert_same, kill_after
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from train_support import CLASSES, largest_difference, make_data, make_trial, without_seconds

from phasegrid.errors import SweepError
from phasegrid.jobs import Part
from phasegrid.models.build import build_model
from phasegrid.models.fused import NotFusableError, read_architecture
from phasegrid.models.strategies import why_not_vmap
from phasegrid.train import autotune
from phasegrid.train.loop import train_pack
from phasegrid.train.member import Trained

Make = Callable[[], nn.Module]
EXAMPLE = torch.zeros(1, 1, 8, 8)


def use(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    from phasegrid.declare import Model
    from phasegrid.models import MODELS, MlpArgs

    model = Model(MlpArgs, lambda *_: make())
    monkeypatch.setitem(MODELS, "mine", model)


MINE = Part("mine", 1, {})


def train(seeds: int = 1, strategy: str = "loop", **recipe: object) -> list[Trained]:
    trials = [make_trial(seed, MINE, keep="last", **recipe) for seed in range(seeds)]
    return train_pack(trials, [make_data()] * seeds, device="cpu", strategy=strategy)  # type: ignore[arg-type]


class Running(nn.Module):
    """Keeps a running mean of its inputs: by assignment, or by writing into its buffer."""

    def __init__(self, how: str = "assigned") -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(64))
        self.out = nn.Linear(64, CLASSES)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.training:
            new = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            if self.how == "assigned":
                self.mean = new
            else:
                self.mean.copy_(new)
        return self.out(x - self.mean)


def test_a_buffer_that_is_assigned_to_is_stored_as_it_is_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, lambda: Running("written"))
    written = train(2)
    use(monkeypatch, Running)
    assigned = train(2)
    assert_same(assigned, written)
    assert (assigned[0].weights["mean"].abs() > 0.1).all()


def test_it_goes_on_after_a_kill_as_if_nothing_had_happened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, Running)
    whole = train()
    trials, data, memory = [make_trial(0, MINE, keep="last")], [make_data()], Memory()
    with pytest.raises(Killed):
        train_pack(
            trials, data, device="cpu", strategy="loop", snapshots=memory,
            snapshot_every_s=0, on_epoch=kill_after(2),  # type: ignore[arg-type]
        )  # fmt: skip
    assert_same(train_pack(trials, data, device="cpu", strategy="loop", snapshots=memory), whole)


class EvalRunning(Running):
    """Changes its mean in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.5 * self.mean + 0.5 * x.flatten(1).detach().mean(0)
        return self.out(x.flatten(1) - self.mean)


def test_evaluating_changes_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, EvalRunning)
    assert largest_difference(train(test_every=1)[0], train()[0]) == 0.0


class Counting(nn.Module):
    """Counts its calls; `matters`: the count is a factor of its outputs."""

    def __init__(self, matters: bool) -> None:
        super().__init__()
        self.out, self.calls, self.matters = nn.Linear(64, CLASSES), 0, matters

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.out(x.flatten(1))
        return logits * (1 + 1 / self.calls) if self.matters else logits


class Hidden(Counting):
    """Keeps a running mean where it is not stored."""

    def __init__(self) -> None:
        super().__init__(False)
        self.register_buffer("mean", torch.zeros(64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().flatten(1).mean(0), 0.1)
        return self.out(x.flatten(1) - self.mean)


class Replacing(Counting):
    def forward(self, x: Tensor) -> Tensor:
        self.out.weight = nn.Parameter(self.out.weight.detach().clamp(-1, 1))
        return self.out(x.flatten(1))


class Registering(Counting):
    def forward(self, x: Tensor) -> Tensor:
        self.register_buffer("last", x.detach().mean())
        return self.out(x.flatten(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Counting(True), "outputs depend on its attribute 'calls'.*register_buffer"),
        (Hidden, "outputs depend on its attribute 'mean'"),
        (lambda: Replacing(False), r"replaces its parameter 'out\.weight'.*parameter\.copy_"),
        (lambda: Registering(False), r"adds 'last' to state_dict\(\)"),
    ],
)
def test_what_the_weights_that_are_stored_would_lack_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, make: Make, message: str
) -> None:
    use(monkeypatch, make)
    with pytest.raises(SweepError, match=message):
        train()


def test_an_attribute_that_does_not_matter_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, lambda: Counting(False))
    assert train()[0].outcome == "done"


class Drawing(nn.Module):
    """A layer, and something random on what it gives, in train mode."""

    def __init__(self, draw: Callable[[Tensor, bool], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.draw = nn.Linear(64, 8), nn.Linear(8, CLASSES), draw

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(self.draw(self.a(x.flatten(1)), self.training))
        return logits


class Attending(nn.Module):
    """Dropout inside attention and a recurrent network."""

    def __init__(self, inner: str) -> None:
        super().__init__()
        self.inner: nn.Module = (
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
            if inner == "attention"
            else nn.LSTM(8, 8, num_layers=2, dropout=0.3, batch_first=True)
        )
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x[:, 0])
        logits: Tensor = self.out((y[0] if isinstance(y, tuple) else y).mean(1))
        return logits


DRAWS: dict[str, Make] = {
    "dropout as a function": lambda: Drawing(lambda h, on: functional.dropout(h, 0.3, on)),
    "RReLU": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.RReLU(), nn.Linear(8, CLASSES)),
    "noise": lambda: Drawing(lambda h, on: h + torch.randn_like(h) if on else h),
    "depth by torch": lambda: Drawing(lambda h, on: h * 0 if on and torch.rand(()) < 0.5 else h),
    "depth by Python": lambda: Drawing(lambda h, on: h * 0 if on and random.random() < 0.5 else h),
    "depth by NumPy": lambda: Drawing(
        lambda h, on: h * 0 if on and np.random.random() < 0.5 else h  # noqa: NPY002
    ),
    "dropout in attention": lambda: Attending("attention"),
    "dropout in an LSTM": lambda: Attending("lstm"),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_what_a_network_draws_depends_on_its_trial_alone(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    use(monkeypatch, DRAWS[name])
    results = []
    for state in (1, 2):
        torch.manual_seed(state)
        random.seed(state)
        np.random.seed(state)  # noqa: NPY002
        results.append(train(state, strategy="auto", epochs=2))  # alone, then in a pack
    assert without_seconds(results[0][0]) == without_seconds(results[1][0])
    assert largest_difference(results[0][0], results[1][0]) == 0.0


@pytest.mark.parametrize("name", DRAWS)
def test_a_network_that_draws_is_never_stacked(name: str) -> None:
    module = DRAWS[name]()
    assert why_not_vmap(module, EXAMPLE) == "it draws random numbers (dropout, say)"
    with pytest.raises(NotFusableError):
        read_architecture(module)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Running, "its forward assigns to its buffer 'mean'"),
        (lambda: Counting(False), "its forward assigns to its attribute 'calls'"),
    ],
)
def test_a_network_that_assigns_is_never_stacked(make: Make, message: str) -> None:
    assert str(why_not_vmap(make(), EXAMPLE)).startswith(message)
    with pytest.raises(NotFusableError):
        read_architecture(make())


def test_a_buffer_that_is_written_into_may_be_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, lambda: Running("written"))
    assert why_not_vmap(Running("written"), EXAMPLE) is None
    stacked = train(2, "vmap")
    for one, other in zip(stacked, train(2), strict=True):
        assert largest_difference(one, other) < 1e-5  # rounding of a few updates


def test_tracing_leaves_a_network_as_it_was() -> None:
    network = Counting(False)
    with pytest.raises(NotFusableError, match="assigns to 'calls'"):
        read_architecture(network)
    assert network.calls == 0


def test_timing_a_network_that_writes_into_its_input_leaves_the_data_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Shifting(Counting):
        def forward(self, x: Tensor) -> Tensor:
            x += 1
            return self.out(x.flatten(1))

    use(monkeypatch, lambda: Shifting(False))
    data = make_data()
    autotune.measure_choice(make_trial(0, MINE), data, torch.device("cpu"))
    train()
    assert torch.equal(data.train_inputs, make_data().train_inputs)


def pruned() -> nn.Module:
    layer = nn.Linear(64, 8)
    prune.random_unstructured(layer, "weight", 0.5)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Linear(8, CLASSES))


def wrapped(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), wrap(nn.Linear(64, 8)), nn.ReLU(), nn.Linear(8, CLASSES))


DERIVED: dict[str, Make] = {
    "weight norm": lambda: wrapped(nn.utils.weight_norm),
    "spectral norm": lambda: wrapped(nn.utils.spectral_norm),
    "pruning": pruned,
    "weight norm, new": lambda: wrapped(parametrizations.weight_norm),
    "spectral norm, new": lambda: wrapped(parametrizations.spectral_norm),
    "orthogonal, new": lambda: wrapped(parametrizations.orthogonal),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", DERIVED)
def test_networks_that_compute_their_weights_train_and_come_back_as_they_were(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    use(monkeypatch, DERIVED[name])
    result, data = train()[0], make_data()
    assert result.history[-1].train_loss < result.history[0].train_loss
    logits = []
    for seed in (5, 6):
        fresh = build_model(MINE, (1, 8, 8), CLASSES, seed=seed)
        fresh.load_state_dict(result.weights)
        logits.append(fresh.eval()(data.test_inputs))
    assert torch.equal(*logits)
    loss = functional.cross_entropy(logits[0], data.test_labels).item()
    assert loss == pytest.approx(result.history[-1].test_loss, abs=1e-6)


class Aliased(Counting):
    """Adds into a value that it uses again under its old name."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.out(x.flatten(1))
        total = h
        total += self.out(torch.relu(x.flatten(1)))
        return total + h


def test_a_sum_into_a_value_that_is_used_again_is_not_stacked() -> None:
    with pytest.raises(NotFusableError, match="iadd"):
        read_architecture(Aliased(False))


def test_a_forward_that_was_put_into_the_instance_is_not_stacked() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    network[1].forward = lambda x: torch.zeros(len(x), CLASSES)
    with pytest.raises(NotFusableError, match="1 has a forward that replaces that of its class"):
        read_architecture(network)
