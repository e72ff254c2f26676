"""Mode connectivity and simplexes of translation models, and curves trained for a number of
updates.
"""

from typing import Any

import pytest
import torch
from curve_rows import compute
from metric_oracles_curves import curve_coefficients
from sequence_support import PAIRS, generator, sentence_pairs, sentences, token_loss, translator
from simplex_rows import compute as simplex
from torch import Tensor, nn

from phasegrid.declare import make_part
from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.compute import place_vertices
from phasegrid.metrics.connectivity.farthest import farthest_from_ends
from phasegrid.metrics.connectivity.training import learning_rates, train_bends
from phasegrid.metrics.network.examples import Examples
from phasegrid.metrics.network.turns import finished
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.complexes import members_of
from phasegrid.metrics.simplex.sampling import sample_coefficients
from phasegrid.metrics.simplex.training import Live, train_last_vertices
from phasegrid.metrics.simplex.wiring import shared
from phasegrid.models.evaluation import evaluate
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.weights import parameter_slices, parameters_vector
from phasegrid.tasks.batches import Batch
from phasegrid.tasks.translation import OPERATIONS

num_scored = OPERATIONS.num_scored


def vertices_of(*seeds: int) -> Tensor:
    return torch.stack([parameters_vector(translator(seed)) for seed in seeds])


def loss_at(w: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    module = translator()
    slices = parameter_slices(module)
    return token_loss(module, inputs, labels, *(w[s.start : s.stop].view(s.shape) for s in slices))


def lr_factor(epoch: int, epochs: int) -> float:
    """The learning rate of the published code of Garipov et al. 2018, over the first."""
    done = epoch / epochs
    return 1.0 if done <= 0.5 else max(0.01, 1.0 - 0.99 * (done - 0.5) / 0.4)


def test_ends_are_the_models_and_numbers_are_over_tokens() -> None:
    models, data = [translator(0), translator(1)], sentences()
    row: Any = compute(models, data, generator(), epochs=1, points=3)
    for end, model in ((0, models[0]), (-1, models[1])):
        for name, x, y in (
            ("train", data.train_inputs, data.train_labels),
            ("test", data.test_inputs, data.test_labels),
        ):
            found = evaluate(model, x, y, data.scoring)
            assert found.num == num_scored(y)
            assert row[f"{name}_loss"][end] == found.loss
            assert row[f"{name}_error_percent"][end] == found.error_percent
            assert row[f"{name}_loss"][end] == pytest.approx(token_loss(model, x, y).item())
    assert row["mode_connectivity_loss"] == farthest_from_ends(row["train_loss"])[0]
    assert row["end_residual_percent"] == 0.0


@pytest.mark.parametrize("curve", ["bezier", "polychain"])
def test_a_step_is_that_of_autograd_on_the_mean_over_tokens(curve: Any) -> None:
    inputs, labels = sentence_pairs(8)
    vertices = vertices_of(0, 1, 2)
    before = vertices.clone().requires_grad_()
    settings = ConnectivityArgs(curve=curve, epochs=1, lr=0.1, batch_size=8, weight_decay=0.03)
    final = finished(
        train_bends(
            FlatNetwork.of(translator()),
            vertices,
            Examples(inputs, labels),
            settings,
            generator(),
            scoring=PAIRS,
        )
    )

    rng = generator()
    torch.randperm(8, generator=rng)
    t = float(torch.rand(1, generator=rng, dtype=torch.float64))
    gamma = torch.tensor(curve_coefficients(curve, 1, t), dtype=torch.float64) @ before
    loss = loss_at(gamma, inputs, labels) + 0.015 * gamma.square().sum()
    (gradient,) = torch.autograd.grad(loss, before)
    lr = 0.1 * 0.01  # the only epoch is the last
    torch.testing.assert_close(vertices[1], (before - lr * gradient).detach()[1])
    assert final == pytest.approx(loss.item(), rel=1e-12)


def losses_along_a_still_curve(
    vertices: Tensor, inputs: Tensor, labels: Tensor, size: int
) -> tuple[list[float], list[int]]:
    """Return the mean losses of the batches of a first epoch, and how many tokens they have."""
    rng = generator()
    order = torch.randperm(len(inputs), generator=rng)
    chunks = order.split(size)
    times = torch.rand(len(chunks), generator=rng, dtype=torch.float64).tolist()
    points = [
        torch.tensor(curve_coefficients("bezier", 1, t), dtype=torch.float64) @ vertices
        for t in times
    ]
    losses = [
        loss_at(point, inputs[chosen], labels[chosen]).item()
        for point, chosen in zip(points, chunks, strict=True)
    ]
    return losses, [num_scored(labels[chosen]) for chosen in chunks]


@pytest.mark.parametrize("updates", [None, 3, 2])
def test_final_curve_loss_is_weighted_by_tokens_over_what_the_last_epoch_saw(
    updates: int | None,
) -> None:
    inputs, labels = sentence_pairs(9)
    vertices = vertices_of(0, 1, 2)
    losses, tokens = losses_along_a_still_curve(vertices, inputs, labels, 3)
    settings = ConnectivityArgs(
        epochs=1, updates=updates, lr=1e-300, batch_size=3, weight_decay=0.0
    )
    final = finished(
        train_bends(
            FlatNetwork.of(translator()),
            vertices,
            Examples(inputs, labels),
            settings,
            generator(),
            scoring=PAIRS,
        )
    )
    seen = slice(0, updates)
    assert len(set(tokens)) > 1
    expected = sum(a * b for a, b in zip(losses[seen], tokens[seen], strict=True))
    assert final == pytest.approx(expected / sum(tokens[seen]), rel=1e-12)


def test_simplex_gradient_is_that_of_autograd_on_the_mean_over_tokens() -> None:
    inputs, labels = sentence_pairs(6)
    vertices = vertices_of(0, 1, 2, 3)
    members = members_of(shared(2, 2))
    coefficients = sample_coefficients(torch.tensor([0.5, 0.5]), members, 4, 4, generator())
    live = Live(FlatNetwork.of(translator()), PAIRS)
    batch = Batch(inputs[None], labels[None])
    (mean,), (grad,) = live.differentiate(vertices[None], coefficients[None], batch)
    vertices.requires_grad_()
    expected = torch.stack([loss_at(a @ vertices, inputs, labels) for a in coefficients]).mean()
    (gradient,) = torch.autograd.grad(expected, vertices)
    torch.testing.assert_close(grad, gradient[-1])
    torch.testing.assert_close(mean, expected.detach())


def test_connector_loss_is_weighted_by_tokens() -> None:
    inputs, labels = sentence_pairs(9)
    # All vertices are one model, so every point is that model and the epoch's loss is its loss on
    # the whole set.
    settings = SimplexArgs(epochs=1, samples=1, batch_size=4, lr=1e-300, sampling="simplex")
    work = train_last_vertices(
        Live(FlatNetwork.of(translator()), PAIRS),
        vertices_of(0, 0, 0)[None],
        shared(2, 1),
        Examples(inputs, labels),
        [0.0],
        settings,
        [generator()],
    )
    (found,) = finished(work)
    assert found == pytest.approx(token_loss(translator(), inputs, labels).item(), rel=1e-12)


def test_training_a_connector_lowers_the_token_loss() -> None:
    data, models = sentences(), [translator(0), translator(1)]
    args = {"samples": 2, "batch_size": 8, "eval_samples": 4, "volume_lambda": 0.0}
    still: Any = simplex(models, data, generator(), epochs=1, lr=1e-300, **args)
    moved: Any = simplex(models, data, generator(), epochs=40, lr=0.3, **args)
    assert moved["connector_losses"][0] < 0.9 * still["connector_losses"][0]
    assert moved["expected_train_loss"] < still["expected_train_loss"]


def test_updates_replace_epochs_and_an_epoch_of_one_batch_is_one_update() -> None:
    models, data = [translator(0), translator(1)], sentences()
    args: dict[str, Any] = {"batch_size": 16, "lr": 0.1}
    by_epochs = compute(models, data, generator(), epochs=7, **args)
    by_updates = compute(models, data, generator(), epochs=3, updates=7, **args)
    assert by_epochs == by_updates
    assert by_epochs != compute(models, data, generator(), updates=6, **args)


@pytest.mark.parametrize(("updates", "batch_size"), [(1, 4), (4, 4), (7, 4), (7, 16), (9, 3)])
def test_a_curve_is_trained_for_exactly_so_many_updates(updates: int, batch_size: int) -> None:
    inputs, labels = sentence_pairs(16)
    steps: list[int] = []
    flat = FlatNetwork.of(translator())

    def count(_module: Any, _inputs: Any, outputs: Tensor) -> None:
        if outputs.requires_grad:  # a look at what draws takes a pass without gradients
            steps.append(len(outputs))

    flat.module.register_forward_hook(count)
    settings = ConnectivityArgs(updates=updates, batch_size=batch_size)
    finished(
        train_bends(
            flat,
            vertices_of(0, 1, 2),
            Examples(inputs, labels),
            settings,
            generator(),
            scoring=PAIRS,
        )
    )
    assert len(steps) == updates


def test_learning_rates_follow_the_fraction_of_updates_done_whatever_an_epoch_is() -> None:
    settings = ConnectivityArgs(updates=100, lr=0.2)
    expected = [0.2 * lr_factor(update, 100) for update in range(1, 101)]
    assert (expected[49], expected[89]) == (0.2, pytest.approx(0.002))
    for num_batches in (1, 7, 100, 391):
        epochs = learning_rates(settings, num_batches)
        assert len(epochs) == -(-100 // num_batches)
        assert [rate for epoch in epochs for rate in epoch] == expected


def test_without_updates_the_rate_is_constant_within_an_epoch() -> None:
    rates = learning_rates(ConnectivityArgs(epochs=10, lr=0.2), 3)
    assert rates == [[0.2 * lr_factor(epoch, 10)] * 3 for epoch in range(1, 11)]


def test_a_curve_of_so_many_epochs_keeps_its_key() -> None:
    args: dict[str, Any] = dict.fromkeys(ConnectivityArgs.__dataclass_fields__)
    assert "updates" not in make_part("connectivity", 1, ConnectivityArgs, args).args
    given = make_part("connectivity", 1, ConnectivityArgs, {**args, "updates": 5})
    assert given.args["updates"] == 5


class Redrawn(nn.Module):
    """A model that knows how to draw all its weights anew, and holds a layer that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(3))

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.uniform_(parameter, 5, 6)


def test_random_bends_are_drawn_as_the_model_says_where_it_does() -> None:
    settings = ConnectivityArgs(bends=2, init="random")
    vertices = place_vertices([Redrawn(), Redrawn()], settings, generator())
    assert bool(((vertices[1:3] >= 5) & (vertices[1:3] <= 6)).all())
    assert not torch.equal(vertices[1], vertices[2])


def test_translation_models_can_be_initialised_anew() -> None:
    models, data = [translator(0), translator(1)], sentences()
    row: Any = compute(models, data, generator(), init="random", epochs=1, lr=1e-300)
    assert row["length_ratio"] > 1
    with pytest.raises(MetricError, match="between two models, got 1"):
        compute(models[:1], data, generator())
