import math

import pytest
import torch
from metric_oracles_curves import cayley_menger_squared_volume, exact_squared_volume
from torch import Tensor

from phasegrid.metrics.simplex.volume import log_volume

# Volumes come out of a float64 QR: measured errors are below 2e-14, 1e-11 leaves room for other
# LAPACKs.
CLOSE = 1e-11


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def regular_log_volume(k: int, edge: float) -> float:
    return k * math.log(edge) + 0.5 * math.log(k + 1) - math.lgamma(k + 1) - k / 2 * math.log(2)


@pytest.mark.parametrize("k", [1, 2, 3, 10, 40])
@pytest.mark.parametrize("edge", [1e-3, 80.0])
def test_regular_simplex_has_its_closed_form_volume(k: int, edge: float) -> None:
    vertices = torch.eye(k + 1, 200, dtype=torch.float64) * edge / math.sqrt(2)
    assert log_volume(vertices) == pytest.approx(regular_log_volume(k, edge), abs=CLOSE)


@pytest.mark.parametrize("n", [1, 2, 5, 10, 40])
def test_right_simplex_with_unit_legs_has_volume_one_over_n_factorial(n: int) -> None:
    vertices = torch.cat([torch.zeros(1, n), torch.eye(n)])
    assert log_volume(vertices) == pytest.approx(-math.lgamma(n + 1), abs=CLOSE)


def test_float32_vertices_of_size_ten_million_have_their_exact_volume() -> None:
    # Integers below 2^24 are exact in float32; the squares of such distances are not.
    generator = torch.Generator().manual_seed(0)
    vertices = torch.randint(-10_000_000, 10_000_000, (11, 14), generator=generator)
    exact = exact_squared_volume(vertices.tolist())
    expected = 0.5 * (math.log(exact.numerator) - math.log(exact.denominator))
    assert log_volume(vertices.float()) == pytest.approx(expected, abs=CLOSE)


def test_right_triangle_with_sides_three_four_five_has_area_six_not_its_square() -> None:
    triangle = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    assert math.exp(log_volume(triangle)) == pytest.approx(6.0, rel=CLOSE)


@pytest.mark.parametrize("seed", range(3))
def test_volume_agrees_with_rational_arithmetic(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vertices = torch.randint(-50, 50, (6, 9), generator=generator)
    exact = exact_squared_volume(vertices.tolist())
    expected = 0.5 * (math.log(exact.numerator) - math.log(exact.denominator))
    assert log_volume(vertices.double()) == pytest.approx(expected, abs=CLOSE)


def test_squared_volume_is_the_cayley_menger_determinant() -> None:
    vertices = normal(4, 7)
    squared = float(cayley_menger_squared_volume(list(vertices)))
    assert 2 * log_volume(vertices) == pytest.approx(math.log(squared), abs=1e-10)


def test_volume_does_not_depend_on_the_order_of_vertices() -> None:
    vertices = normal(5, 30)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert log_volume(vertices[order]) == pytest.approx(log_volume(vertices), abs=CLOSE)


def test_volume_does_not_depend_on_where_the_simplex_lies() -> None:
    vertices = normal(5, 30)
    shifted = vertices + 7 * normal(30, seed=1)
    assert log_volume(shifted) == pytest.approx(log_volume(vertices), abs=CLOSE)


def test_volume_scales_with_the_nth_power() -> None:
    vertices = normal(5, 30)
    grown = log_volume(3 * vertices) - log_volume(vertices)
    assert grown == pytest.approx(4 * math.log(3), abs=CLOSE)


def test_float32_vertices_are_measured_in_float64() -> None:
    vertices = 80 * normal(11, 500).float()
    assert log_volume(vertices) == log_volume(vertices.double())


def test_triangle_a_hair_over_the_line_has_its_small_area() -> None:
    height = 1e-9
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, height]], dtype=torch.float64)
    assert log_volume(triangle) == pytest.approx(math.log(height / 2), abs=1e-6)


@pytest.mark.parametrize("vertices", [torch.zeros(3, 5), torch.arange(4.0).repeat(6, 1).t()])
def test_flat_simplex_has_log_volume_minus_infinity(vertices: Tensor) -> None:
    assert log_volume(vertices) == -math.inf


def test_more_edges_than_parameters_are_flat() -> None:
    assert log_volume(normal(4, 2)) == -math.inf


def test_point_has_volume_one() -> None:
    assert log_volume(normal(1, 3)) == 0.0
