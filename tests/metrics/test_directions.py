"""The metric `directions`: against formulas, finite differences and what random directions obey."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from oracles import dense_hessian
from point_support import Residual, cnn, dataset, generator, images, mlp, seeded
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.directions import DirectionsArgs
from phasegrid.metrics.directions.compute import compute
from phasegrid.metrics.directions.drawing import draw_directions, loss_and_gradient
from phasegrid.metrics.directions.eigenvectors import extreme_eigenvectors
from phasegrid.metrics.directions.left import LeftDirections, read_directions
from phasegrid.metrics.directions.names import names_mistake, unknown_direction
from phasegrid.metrics.hessian.operator import HessianOperator
from phasegrid.metrics.measured import Measured, Source
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.weights import parameters_vector
from phasegrid.tasks.scoring import CLASSIFICATION


def find(
    models: list[nn.Module], data: Dataset, *along: str, seed: int = 0, **args: Any
) -> Measured:
    settings = dataclasses.asdict(DirectionsArgs(along=along, **args))
    return compute(models, data, generator(seed), **settings)


def vectors(found: Measured) -> Tensor:
    return found.artifacts["directions"]["directions"]


def flat_data(num: int = 12) -> Dataset:
    inputs = torch.randn(num, 4, generator=generator(3), dtype=torch.float64)
    return dataset(inputs, torch.randint(0, 3, (num,), generator=generator(4)))


def source(found: Measured, *along: str) -> Source:
    return Source(found.artifacts["directions"], "directions", "directions", {"along": list(along)})


def test_the_base_plus_a_direction_to_a_network_is_that_network() -> None:
    models = [seeded(mlp, seed) for seed in range(3)]
    found = find(models, flat_data(), "to_2", "to_1")
    base = found.artifacts["directions"]["weights"]
    torch.testing.assert_close(base, parameters_vector(models[0]), rtol=0, atol=0)
    for row, number in zip(vectors(found), (2, 1), strict=True):
        # one rounding of a difference and of a sum
        torch.testing.assert_close(base + row, parameters_vector(models[number]), rtol=1e-15, atol=1e-16)  # fmt: skip


def test_the_gradient_is_that_of_finite_differences() -> None:
    module, data = seeded(lambda: mlp(nn.Tanh)), flat_data()
    g = -vectors(find([module], data, "gradient"))[0]
    flat = FlatNetwork.of(module)
    w, probe = flat.rows()[0], torch.randn(len(g), generator=generator(1), dtype=torch.float64)

    def loss(at: Tensor) -> float:
        flat.assign(at)
        return float(cross_entropy(flat.module(data.train_inputs), data.train_labels).detach())

    h = 1e-5  # the error of central differences is of the order h^2
    slope = (loss(w + h * probe) - loss(w - h * probe)) / (2 * h)
    assert float(g @ probe) == pytest.approx(slope, rel=1e-7)


@pytest.mark.parametrize("make", [cnn, Residual], ids=["cnn", "residual"])
def test_the_gradient_of_a_set_is_the_mean_over_its_examples_however_they_are_cut(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, (inputs, labels) = seeded(make), images(10)
    whole = loss_and_gradient(module, inputs, labels, CLASSIFICATION)
    monkeypatch.setattr("phasegrid.metrics.directions.drawing.GRADIENT_BATCH", 3)
    cut = loss_and_gradient(module, inputs, labels, CLASSIFICATION)
    assert cut[0] == pytest.approx(whole[0], rel=1e-14)
    torch.testing.assert_close(cut[1], whole[1], rtol=1e-10, atol=1e-14)


def test_a_batch_has_the_gradient_of_its_own_examples_and_a_seed_chooses_it() -> None:
    module, data = seeded(mlp), flat_data()
    batch = find([module], data, "gradient", gradient_examples=5)
    other = find([module], data, "gradient", gradient_examples=5, example_seed=1)
    assert batch.rows[0]["num_examples"] == 5
    assert not torch.equal(vectors(batch), vectors(other))
    again = find([module], data, "gradient", gradient_examples=5, seed=9)
    torch.testing.assert_close(vectors(again), vectors(batch), rtol=0, atol=0)
    every = find([module], data, "gradient", gradient_examples=10**6)
    assert every.rows[0]["num_examples"] == 12


def test_the_gradient_says_the_loss_and_how_batch_norm_was_taken() -> None:
    module, data = seeded(cnn), dataset(*images(10))
    row = find([module], data, "gradient").rows[0]
    loss = cross_entropy(module(data.train_inputs), data.train_labels).detach()
    assert row["loss"] == pytest.approx(float(loss), rel=1e-12)
    assert row["batch_norm"] == "as_saved"
    refreshed = find([module], data, "gradient", batch_norm="refreshed").rows[0]
    assert refreshed["batch_norm"] == "refreshed"
    assert refreshed["loss"] != pytest.approx(row["loss"], rel=1e-6)
    assert find([seeded(mlp)], flat_data(), "gradient").rows[0]["batch_norm"] is None


def test_the_log_density_is_that_of_independent_normal_numbers() -> None:
    found = find([seeded(mlp)], flat_data(), "gradient", "gaussian_0")
    normal = torch.distributions.Normal(0.0, 1.0)
    for row, vector in zip(found.rows, vectors(found), strict=True):
        assert row["log_density"] == pytest.approx(float(normal.log_prob(vector).sum()), rel=1e-10)
    square, size = found.rows[0]["norm"] ** 2, found.rows[0]["num_parameters"]
    by_hand = -square / 2 - size / 2 * math.log(2 * math.pi)
    assert found.rows[0]["log_density"] == pytest.approx(by_hand, rel=1e-12)


def test_the_paper_draws_its_gradient_with_the_density_that_it_states() -> None:
    size, square = 394_634, 119.7  # Xu et al. 2024, section 2.3: about -3.6e5
    assert -square / 2 - size / 2 * math.log(2 * math.pi) == pytest.approx(-362_700, abs=100)


def test_angles_of_random_directions_concentrate_at_a_right_angle() -> None:
    module, num = seeded(lambda: mlp(width=60)), 60
    along = ["weights", *(f"gaussian_{i}" for i in range(num))]
    rows = find([module], flat_data(), *along).rows
    cosines = torch.tensor([rows[0]["cosine"][1:]]).double()
    size = rows[0]["num_parameters"]
    # independent, mean 0, variance 1 / P; within 4 standard errors of both
    assert abs(float(cosines.mean())) < 4 / math.sqrt(size * num)
    assert float(cosines.square().mean()) * size == pytest.approx(1, abs=4 * math.sqrt(2 / num))


def test_gaussian_directions_are_the_same_whichever_others_are_asked_for() -> None:
    module, data = seeded(mlp), flat_data()
    one = vectors(find([module], data, "gaussian_2"))[0]
    several = vectors(find([module], data, "weights", "gaussian_0", "gaussian_2"))
    torch.testing.assert_close(several[2], one, rtol=0, atol=0)
    assert not torch.equal(several[1], one)


def test_cosines_are_those_of_the_angles_and_null_with_a_zero_direction() -> None:
    models = [seeded(mlp), seeded(mlp)]  # the same network twice: to_1 is zero
    rows = find(models, flat_data(), "weights", "to_1", "gaussian_0").rows
    found = vectors(find(models, flat_data(), "weights", "to_1", "gaussian_0"))
    expected = float(nn.functional.cosine_similarity(found[0], found[2], dim=0))
    assert rows[0]["cosine"] == [pytest.approx(1), None, pytest.approx(expected, rel=1e-10)]
    assert rows[1]["cosine"] == [None, None, None]
    assert [row["overlap"] for row in rows] == [
        pytest.approx(1),
        None,
        pytest.approx(abs(expected)),
    ]
    assert rows[0]["against"] == ["weights", "to_1", "gaussian_0"]


def test_what_reads_directions_gets_them_by_name_for_the_same_weights() -> None:
    module = seeded(mlp)
    found = find([module], flat_data(), "gradient", "gaussian_0")
    left = read_directions([module], [source(found, "gradient", "gaussian_0")], "lines")
    assert isinstance(left, LeftDirections)
    assert left.names == ("gradient", "gaussian_0")
    torch.testing.assert_close(left.pick(["gaussian_0"], "lines")[0], vectors(found)[1])
    with pytest.raises(MetricError, match=r"lines: found the direction to_1.* allowed: gradient"):
        left.pick(["to_1"], "lines")
    with pytest.raises(MetricError, match="go through other weights"):
        read_directions([seeded(mlp, 1)], [source(found, "gradient", "gaussian_0")], "lines")
    with pytest.raises(MetricError, match="does not hold directions of a network with 1,"):
        read_directions([seeded(lambda: mlp(width=30))], [source(found, "gradient")], "lines")
    with pytest.raises(MetricError, match="got 0 artifacts and 1 models"):
        read_directions([module], [], "lines")


def test_a_direction_that_will_not_be_stored_is_known_before() -> None:
    assert unknown_direction(["gradient"], {"along": ("gradient", "to_1")}) is None
    told = unknown_direction(["to_2"], {"along": ("gradient", "to_1")})
    assert told == "found to_2, but the directions are along: [gradient, to_1]; add it there"


def test_what_has_no_directions_is_refused() -> None:
    data = flat_data()
    with pytest.raises(MetricError, match="to_1 needs 2 networks, got 1"):
        find([seeded(mlp)], data, "to_1")
    with pytest.raises(MetricError, match="must have the same architecture"):
        find([seeded(mlp), seeded(lambda: mlp(width=6))], data, "to_1")
    with pytest.raises(MetricError, match="go through the trainable parameters of a network"):
        find([seeded(mlp).requires_grad_(False)], data, "gaussian_0")
    broken = seeded(mlp)
    next(broken.parameters()).data.fill_(torch.nan)
    with pytest.raises(MetricError, match=r"the loss is nan on 12 examples.*diverged"):
        find([broken], data, "gradient")
    flattened = nn.Sequential(nn.Linear(4, 3), nn.Flatten(0)).double()
    with pytest.raises(MetricError, match="directions: the network maps"):
        find([flattened], data, "gradient")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["gaussian_0", "gaussian_0"], "found gaussian_0 twice; name each direction once"),
        (
            ["gaussian"],
            "found 'gaussian'; allowed: gradient, weights, w_peak, vvv_basin, and numbered",
        ),
        (["to_0"], "found 'to_0'; allowed"),
        (["gaussian_01"], "found 'gaussian_01'; allowed"),
        (["gradiant"], "did you mean 'gradient'?"),
    ],
)
def test_a_name_that_is_no_direction_is_a_mistake(names: list[str], told: str) -> None:
    finding = names_mistake(names, "along")
    assert finding is not None
    assert finding[0] == f"along.{len(names) - 1}"
    assert told in finding[1]


def dense(module: nn.Module, data: Dataset) -> tuple[Tensor, Tensor]:
    H = dense_hessian(module, data.train_inputs, data.train_labels)
    return torch.linalg.eigh(H)


def test_eigenvectors_are_those_of_a_dense_decomposition() -> None:
    module, data = seeded(lambda: mlp(nn.Tanh)), flat_data()
    along = ["positive_1", "positive_3", "negative_1", "negative_2"]
    found = find([module], data, *along, tolerance=1e-9)
    values, basis = dense(module, data)
    for row, vector, place in zip(found.rows, vectors(found), (-1, -3, 0, 1), strict=True):
        assert row["eigenvalue"] == pytest.approx(float(values[place]), abs=1e-12)
        assert row["eigenvalue_residual"] <= 1e-9 * abs(row["eigenvalue"])
        assert row["norm"] == pytest.approx(1, rel=1e-12)
        # known to residual / gap; the gaps here are above 1e-4
        assert abs(float(vector @ basis[:, place])) == pytest.approx(1, abs=1e-8)
        assert row["num_examples"] == len(data.train_labels)
        assert row["hvp_method"] == "double_backward"


def test_the_residual_of_an_eigenvector_is_what_its_product_leaves() -> None:
    module, data = seeded(lambda: mlp(nn.Tanh)), flat_data()
    found = find([module], data, "negative_3", steps=12, tolerance=1e-9)
    H, row, v = dense_hessian(module, data.train_inputs, data.train_labels), found.rows[0], vectors(found)[0]  # fmt: skip
    left = float(torch.linalg.vector_norm(H @ v - row["eigenvalue"] * v))
    assert row["eigenvalue_residual"] == pytest.approx(left, rel=1e-6)
    assert left > 1e-9 * abs(row["eigenvalue"])  # the run was cut short, and says so


def test_a_run_ends_when_all_that_is_asked_for_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    module, data = seeded(lambda: mlp(nn.Tanh)), flat_data()
    counts = []
    original = extreme_eigenvectors

    def counting(H: HessianOperator, *args: Any) -> Any:
        found = original(H, *args)
        counts.append((H.num_products, H.size))
        return found

    monkeypatch.setattr("phasegrid.metrics.directions.finding.extreme_eigenvectors", counting)
    for tolerance in (0.5, 1e-3):
        find([module], data, "positive_1", "negative_1", tolerance=tolerance)
    assert counts[0][0] < counts[1][0] < counts[1][1]


def test_more_eigenvectors_than_parameters_are_refused() -> None:
    module = nn.Sequential(nn.Linear(4, 3)).double()
    every = find([module], flat_data(), "positive_8", "negative_7")
    assert len(every.rows) == 2
    with pytest.raises(MetricError, match=r"16 eigenvectors.*15 trainable parameters.*at most 15"):
        find([module], flat_data(), "positive_8", "negative_8")


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    models = [seeded(mlp, seed) for seed in range(4)]
    found = find(models, flat_data(), "component_1", "component_3", "component_2")
    offsets = torch.stack([parameters_vector(m) - parameters_vector(models[0]) for m in models[1:]])
    _, sizes, basis = torch.linalg.svd(offsets, full_matrices=False)
    for row, vector, place in zip(found.rows, vectors(found), (0, 2, 1), strict=True):
        assert abs(float(vector @ basis[place])) == pytest.approx(1, rel=1e-10)
        share = float(sizes[place] ** 2 / sizes.square().sum())
        assert row["share"] == pytest.approx(share, rel=1e-10)


def test_networks_on_a_line_have_one_component() -> None:
    first, last = seeded(mlp, 0), seeded(mlp, 1)
    middle = copy.deepcopy(first)
    for own, a, b in zip(middle.parameters(), first.parameters(), last.parameters(), strict=True):
        own.data.copy_((a.detach() + b.detach()) / 2)
    models = [first, middle, last]
    rows = find(models, flat_data(), "component_1", "to_2").rows
    assert abs(rows[0]["cosine"][1]) == pytest.approx(1, rel=1e-12)
    assert rows[0]["share"] == pytest.approx(1, rel=1e-12)
    with pytest.raises(MetricError, match=r"component_2 was asked for.* span 1 dimensions"):
        find(models, flat_data(), "component_2")
    with pytest.raises(MetricError, match="component_3 needs 4 networks, got 3"):
        find(models, flat_data(), "component_3")


def test_the_best_aligned_draw_has_the_smallest_angle_and_the_norm_of_the_gradient() -> None:
    module, data = seeded(mlp), flat_data()
    found = find([module], data, "aligned_20", "gradient", "aligned_5", "aligned_1", seed=3)
    g, rng = vectors(found)[1], generator(3)
    draws = torch.stack([draw_directions(1, g, rng)[0] for _ in range(20)])
    cosines = draws @ g / (draws.norm(dim=1) * g.norm())
    for place, num in ((0, 20), (2, 5), (3, 1)):
        best = draws[int(cosines[:num].argmax())]
        torch.testing.assert_close(vectors(found)[place], best * g.norm() / best.norm())
        assert found.rows[place]["cosine"][1] == pytest.approx(float(cosines[:num].max()))
    alone = find([module], data, "aligned_5", seed=3)
    torch.testing.assert_close(vectors(alone)[0], vectors(found)[2], rtol=0, atol=0)
