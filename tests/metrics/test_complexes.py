"""Complexes of any wiring: volumes, points, training, and what they leave for others."""

import math
from typing import Any

import pytest
import torch
from simplex_rows import compute
from test_simplex import QUICK, data_for, network, networks, rows_of, seeded
from test_wiring import SEVEN_MODES
from torch import Tensor

from phasegrid.errors import MetricError
from phasegrid.metrics.measured import Measured, Source
from phasegrid.metrics.network.left import Refresh, networks_at
from phasegrid.metrics.simplex import compute as engine
from phasegrid.metrics.simplex.complexes import Complex, grow, members_of, simplexes_in
from phasegrid.metrics.simplex.left import LeftComplex, read_complex
from phasegrid.metrics.simplex.sampling import sample_coefficients
from phasegrid.metrics.simplex.volume import (
    kinds_of,
    log_volume,
    log_volumes_of,
    total_log_volume,
    volume_shares,
)
from phasegrid.metrics.simplex.wiring import Simplexes, around, shared, simplexes_of
from phasegrid.models.evaluation import evaluate
from phasegrid.models.weights import parameters_vector

CPU = torch.device("cpu")
STARS: dict[str, Simplexes] = {
    "one simplex": ((0, 1, 2, 6),),
    "a vertex shared": ((0, 2, 6), (1, 2, 6), (2, 3, 6)),
    "nothing shared": ((0, 1, 6), (2, 3, 6), (4, 5, 6)),
    "two of their own": ((0, 1, 2, 6), (2, 3, 4, 6)),
    "three dimensions": ((0, 6), (1, 2, 6), (2, 3, 4, 6), (3, 5, 6)),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_simplexes_of_a_dimension_share_by_volume_and_dimensions_by_number() -> None:
    log_volumes = torch.tensor([1.0, 2.0, 7.0], dtype=torch.float64).log()
    kinds = kinds_of([1, 1, 2], CPU)
    shares = volume_shares(log_volumes, kinds)
    assert shares.tolist() == pytest.approx([2 / 9, 4 / 9, 1 / 3])
    expected = 2 / 3 * math.log(3) + 1 / 3 * math.log(7)
    assert total_log_volume(log_volumes, kinds) == pytest.approx(expected)


def test_log_volume_of_mixed_dimensions_moves_by_their_mean_when_scaled() -> None:
    vertices, simplexes = normal(6, 20), ((0, 4), (1, 4, 5), (2, 3, 4, 5))
    kinds = kinds_of([1, 2, 3], CPU)
    small, large = (
        total_log_volume(log_volumes_of(Complex(s * vertices, simplexes)), kinds) for s in (1, 3)
    )
    assert large - small == pytest.approx(2 * math.log(3))


def test_simplexes_of_one_dimension_need_no_kinds() -> None:
    assert kinds_of([3, 3, 3], CPU) == ()


@pytest.mark.parametrize("name", STARS)
def test_a_point_has_the_vertices_of_one_simplex_and_weights_that_sum_to_one(name: str) -> None:
    star = STARS[name]
    shares = torch.full((len(star),), 1 / len(star))
    points = sample_coefficients(shares, members_of(star), 7, 200, seeded())
    used = {tuple(row.nonzero().flatten().tolist()) for row in points}
    assert used == {*star}
    torch.testing.assert_close(points.sum(dim=1), torch.ones(200, dtype=torch.float64))


def test_points_of_a_padded_simplex_have_the_moments_of_dirichlet() -> None:
    # Of Dirichlet(1, 1, 1): mean 1/3, variance 1/18, covariance -1/36.
    num, members = 4000, torch.tensor([[0, 2, 3, -1]])
    points = sample_coefficients(torch.ones(1), members, 4, num, seeded())[:, [0, 2, 3]]
    assert bool(((points.mean(dim=0) - 1 / 3).abs() < 4 * math.sqrt(1 / 18 / num)).all())
    expected = torch.full((3, 3), -1 / 36, dtype=torch.float64).fill_diagonal_(1 / 18)
    # The products of two coordinates have a standard deviation of at most 0.09.
    torch.testing.assert_close(points.t().cov(), expected, rtol=0, atol=4 * 0.09 / math.sqrt(num))


def test_points_of_a_complex_are_uniform_in_volume() -> None:
    """Two triangles of areas 1 : 4 that share an edge: each part holds its share of the points."""
    vertices = torch.tensor([[0.0, 1.0], [0.0, -4.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    complex_ = Complex(vertices, ((0, 2, 3), (1, 2, 3)))
    shares, num = volume_shares(log_volumes_of(complex_)), 4000
    points = sample_coefficients(shares, complex_.members, 4, num, seeded()) @ vertices
    stderr = math.sqrt(0.16 / num)
    assert abs(float((points[:, 1] > 0).double().mean()) - 1 / 5) < 4 * stderr
    # The half towards the tip of the larger one is a quarter of 4/5.
    assert abs(float((points[:, 1] < -2).double().mean()) - 1 / 5) < 4 * stderr


@pytest.mark.parametrize("stretch", [1.0, 100.0])
def test_points_of_a_stretched_triangle_are_as_uniform_as_of_a_regular_one(stretch: float) -> None:
    """Benton et al. 2021, appendix A.1: 200 points of Dirichlet(1, 1, 1), by a chi-squared test on
    the four triangles between the corners and the middles of the edges, which are of equal area.
    """
    triangle = torch.tensor([[0.0, 0.0], [stretch, 0.0], [stretch / 2, 1.0]], dtype=torch.float64)
    weights = sample_coefficients(torch.ones(1), torch.tensor([[0, 1, 2]]), 3, 200, seeded(1))
    x, y = (weights @ triangle).t()
    counts = [
        int((y > 0.5).sum()),
        int((2 * x + stretch * y < stretch).sum()),
        int((2 * x - stretch * y > stretch).sum()),
    ]
    counts.append(200 - sum(counts))
    chi_squared = sum((count - 50) ** 2 / 50 for count in counts)
    assert chi_squared < 11.34  # p > 0.01 at three degrees of freedom


@pytest.mark.parametrize("simplexes", [shared(2, 1), ((0, 1), (1, 2, 3))])
def test_padding_changes_no_simplex(simplexes: Simplexes) -> None:
    assert simplexes_in(members_of(simplexes)) == simplexes


def test_a_vertex_beside_one_other_starts_a_jitter_of_its_norm_away() -> None:
    vertices = normal(3, 50)
    new = grow(vertices, [1], 0.02, seeded())[-1]
    assert float((new - vertices[1]).norm()) == pytest.approx(0.02 * float(vertices[1].norm()))


def measured(num: int = 3, **args: Any) -> Measured:
    return engine.compute(networks(num), data_for(), seeded(), **{**QUICK, "connectors": 2, **args})


def test_shared_wiring_written_out_gives_the_same_row() -> None:
    written = [["w0", "c0", "c1"], ["w1", "c0", "c1"], ["w2", "c0", "c1"]]
    assert measured(wiring=written).rows == measured().rows


def test_a_complex_of_seven_modes_nine_connectors_and_twelve_simplexes_is_measured() -> None:
    args = {**QUICK, "epochs": 1, "batch_size": 42, "connectors": 9, "wiring": SEVEN_MODES}
    found = engine.compute(networks(7), data_for(), seeded(), **args)
    row = found.rows
    assert len(row["log_volumes"]) == 12
    assert None not in row["log_volumes"]
    assert (row["dimension"], row["num_modes"], row["num_connectors"]) == (3, 7, 9)
    assert simplexes_in(found.artifacts["complex"]["simplexes"]) == simplexes_of(SEVEN_MODES, 7, 9)


def test_a_connector_starts_beside_the_vertices_of_its_own_simplexes() -> None:
    wiring = (("w0", "c0"), ("w1", "c0"), ("w1", "w2", "c1"))
    assert around(simplexes_of(wiring, 3, 2), 4) == ((1, 2, 4),)
    found = measured(wiring=wiring, lr=1e-300, jitter=1e-9)
    modes, connectors = rows_of(networks(3)), found.artifacts["complex"]["connectors"]
    torch.testing.assert_close(connectors[0], modes[:2].mean(0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(connectors[1], modes[1:].mean(0), rtol=1e-6, atol=1e-7)


def test_a_wiring_that_does_not_fit_is_refused() -> None:
    with pytest.raises(MetricError, match=r"wiring\.1: found w3, but there are 3 modes"):
        measured(wiring=[["w0", "w1", "w2", "c0"], ["w3", "c0", "c1"]])


def source(found: Measured, **args: Any) -> Source:
    return Source(found.artifacts["complex"], "complex", "simplex", {"batch_size": 20, **args})


def left(num: int = 3, **args: Any) -> LeftComplex:
    return read_complex(networks(num), [source(measured(num, **args), **args)], "a test")


def test_a_left_complex_is_the_one_that_was_measured() -> None:
    found = measured()
    complex_ = read_complex(networks(3), [source(found)], "a test")
    assert complex_.names == ("w0", "w1", "w2", "c0", "c1")
    assert complex_.simplexes == shared(3, 2)
    assert torch.equal(complex_.vertices[:3], rows_of(networks(3)))
    assert complex_.log_volumes.tolist() == found.rows["log_volumes"]


@pytest.mark.parametrize("sampling", ["volume", "simplex"])
def test_points_of_a_left_complex_are_drawn_as_it_was_trained(sampling: str) -> None:
    complex_ = left(volume_lambda=0.5, epochs=10, sampling=sampling)
    shares = volume_shares(complex_.log_volumes)
    if sampling == "simplex":
        shares = torch.full((3,), 1 / 3, dtype=torch.float64)
    drawn = complex_.coefficients(3000, seeded())
    found = (drawn[:, :3] > 0).double().mean(dim=0)
    assert bool(((found - shares).abs() < 4 * (shares * (1 - shares) / 3000).sqrt()).all())


def test_networks_at_the_vertices_of_a_left_complex_are_its_vertices() -> None:
    complex_, data = left(), data_for()
    every = torch.eye(5, dtype=torch.float64)
    made = networks_at(complex_, every, network(9), data, Refresh(), seeded())
    for found, vertex in zip(made, complex_.vertices, strict=True):
        assert torch.equal(parameters_vector(found), vertex)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_mean_loss_over_networks_of_a_left_complex_is_the_expected_loss(batch_norm: bool) -> None:
    models, data = networks(2, batch_norm), data_for()
    args: dict[str, Any] = {**QUICK, "connectors": 2, "eval_samples": 60}
    found = engine.compute(models, data, seeded(), **args)
    complex_ = read_complex(models, [source(found)], "a test")
    points = complex_.coefficients(60, seeded(5))
    losses = [
        evaluate(one, data.test_inputs, data.test_labels).loss
        for one in networks_at(complex_, points, models[0], data, Refresh(), seeded())
    ]
    stderr = math.sqrt(2) * found.rows["expected_test_loss_stderr"]
    assert abs(sum(losses) / 60 - found.rows["expected_test_loss"]) < 4 * stderr


def test_another_artifact_is_no_complex() -> None:
    curve = Source({"bends": torch.zeros(1, 51)}, "curve", "connectivity", {})
    with pytest.raises(MetricError, match="connectivity does not hold a complex of networks with"):
        read_complex(networks(2), [curve], "a test")


def test_a_complex_of_more_modes_is_not_read_through_fewer() -> None:
    with pytest.raises(MetricError, match="has vertex 4, but its modes and connectors are 4"):
        read_complex(networks(2), [source(measured())], "a test")


def test_two_complexes_are_not_one() -> None:
    with pytest.raises(MetricError, match="reads one complex through its modes; got 2 and 3"):
        read_complex(networks(3), [source(measured())] * 2, "a test")


def test_a_diverged_complex_is_not_stored() -> None:
    assert measured(lr=1e308).artifacts == {}


def test_espro_spans_one_simplex_around_its_mode() -> None:
    args = {**QUICK, "connectors": 2}
    found = engine.compute_espro(networks(1), data_for(), seeded(), **args)
    row, complex_ = found.rows, read_complex(networks(1), [source(found)], "a test")
    assert complex_.simplexes == ((0, 1, 2),)
    assert torch.equal(complex_.vertices[0], parameters_vector(network(0)))
    assert row["log_volume"] == pytest.approx(log_volume(complex_.vertices), abs=1e-11)
    assert (row["dimension"], row["num_modes"]) == (2, 1)


def test_espro_of_two_models_is_refused() -> None:
    with pytest.raises(MetricError, match="espro grows a simplex from one model, got 2"):
        engine.compute_espro(networks(2), data_for(), seeded())


def test_an_edge_between_modes_has_their_distance_as_volume() -> None:
    wiring, w = [["w0", "w1"], ["w1", "c0"]], rows_of(networks(2))
    row = compute(networks(2), data_for(), seeded(), wiring=wiring, **QUICK)
    assert row["log_volumes"][0] == pytest.approx(math.log(float((w[0] - w[1]).norm())))
    assert row["dimension"] == 1
