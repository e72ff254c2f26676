"""Lanczos against dense eigenvalues: bounds, scaling, degenerate operators."""

import pytest
import torch
from point_support import decaying, generator, symmetric
from torch import Tensor

from phasegrid.errors import MetricError
from phasegrid.metrics.hessian.basis import rademacher
from phasegrid.metrics.hessian.lanczos import (
    LanczosRun,
    Spectrum,
    lanczos,
    short_lanczos,
)

CPU = torch.device("cpu")


def run(
    H: Tensor,
    steps: int,
    seed: int = 1,
    tolerance: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> Spectrum:
    H = H.to(dtype)
    rng = generator(seed)
    return lanczos(lambda v: H @ v, rademacher(len(H), rng, dtype, CPU), steps, rng, tolerance)


def test_extreme_eigenvalues_are_those_of_the_dense_matrix() -> None:
    values = decaying(300)
    spectrum = run(symmetric(values), 40)
    assert float(spectrum.ritz_values[-1]) == pytest.approx(20.0, rel=1e-12)
    assert float(spectrum.ritz_values[0]) == pytest.approx(-2.0, rel=1e-12)
    assert not spectrum.complete


def test_float32_vectors_give_eigenvalues_to_float32() -> None:
    spectrum = run(symmetric(decaying(300)), 40, dtype=torch.float32)
    assert float(spectrum.ritz_values[-1]) == pytest.approx(20.0, rel=2e-6)
    assert float(spectrum.ritz_values[0]) == pytest.approx(-2.0, rel=2e-5)


def test_a_saddle_has_both_signs_whatever_the_start() -> None:
    # Sign vectors are eigenvectors of the second one: the run closes after one step and must go on.
    for H in (torch.diag(torch.tensor([-2.0, 1.0])), torch.tensor([[-0.5, 1.5], [1.5, -0.5]])):
        for seed in range(6):
            spectrum = run(H.double(), 40, seed)
            torch.testing.assert_close(
                spectrum.ritz_values, torch.tensor([-2.0, 1.0], dtype=torch.float64)
            )
            assert spectrum.complete


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1e6])
def test_eigenvalues_scale_with_the_operator(factor: float) -> None:
    H = symmetric(decaying(100))
    plain = run(H, 20, tolerance=1e-3)
    scaled = run(factor * H, 20, tolerance=1e-3)
    torch.testing.assert_close(
        scaled.ritz_values, factor * plain.ritz_values, rtol=1e-9, atol=1e-12 * factor
    )
    # Weights of crowded nodes are sensitive to rounding; those of the outliers are not.
    torch.testing.assert_close(scaled.weights[-3:], plain.weights[-3:], rtol=1e-9, atol=0)


def test_as_many_steps_as_dimensions_give_the_exact_spectrum_with_multiplicities() -> None:
    values = torch.tensor([-1.0, 0.0, 0.0, 0.0, 2.0, 2.0, 5.0], dtype=torch.float64)
    spectrum = run(symmetric(values), 50)
    torch.testing.assert_close(spectrum.ritz_values, values, atol=1e-12, rtol=0)
    assert spectrum.weights.tolist() == [1 / 7] * 7
    assert float(spectrum.residuals.max()) < 1e-13


def test_the_zero_operator_has_zero_eigenvalues_and_no_error() -> None:
    spectrum = run(torch.zeros(9, 9, dtype=torch.float64), 4, tolerance=1e-3)
    assert spectrum.ritz_values.abs().max() == 0
    assert spectrum.error_bound() == 0


def test_residuals_bound_the_distance_to_the_nearest_eigenvalue() -> None:
    values = torch.linspace(-1, 1, 200, dtype=torch.float64) ** 3
    for dtype in (torch.float32, torch.float64):
        for steps in (3, 10, 30):
            spectrum = run(symmetric(values), steps, dtype=dtype)
            distance = (spectrum.ritz_values[:, None] - values).abs().amin(1)
            assert bool((distance <= spectrum.residuals + 1e-14).all())


def test_residuals_are_those_of_the_ritz_vectors() -> None:
    H = symmetric(torch.linspace(-1, 1, 80, dtype=torch.float64))
    spectrum = run(H, 12)
    Q = torch.cat(spectrum.basis)
    theta, S = torch.linalg.eigh(Q @ H @ Q.t())
    y = Q.t() @ S
    torch.testing.assert_close((H @ y - y * theta).norm(dim=0), spectrum.residuals)


def test_the_run_goes_on_until_the_largest_eigenvalue_is_known() -> None:
    values = torch.linspace(0, 1, 400, dtype=torch.float64)
    values[-1] = 1.3
    H = symmetric(values)
    short, known = run(H, 4), run(H, 4, tolerance=1e-3)
    assert float(short.ritz_values[-1]) < 1.3 * (1 - 1e-3)
    assert len(short.ritz_values) < len(known.ritz_values) < 16
    assert 1.3 * (1 - 1e-3) <= float(known.ritz_values[-1]) <= 1.3 + 1e-12
    assert len(run(H, 4, tolerance=1e-12).ritz_values) == 16  # four times the steps at most


def test_a_run_that_goes_on_leaves_what_it_gave_as_it_was() -> None:
    H, rng = symmetric(torch.linspace(-1.3, 2, 90, dtype=torch.float64)), generator(1)
    go_on = LanczosRun(lambda v: H @ v, rademacher(90, rng, torch.float64, CPU), 7, rng)
    first = go_on.advance(7, 7, lambda _: True)
    kept = [block.clone() for block in first.basis]
    longer = go_on.advance(0, 80, lambda spectrum: spectrum.knows_smallest(1e-9))
    assert 7 < len(longer.ritz_values) <= 80
    assert float(longer.ritz_values[0]) == pytest.approx(-1.3, rel=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(kept, first.basis, strict=True))
    whole = run(H, len(longer.ritz_values))
    torch.testing.assert_close(whole.ritz_values, longer.ritz_values, rtol=0, atol=1e-9)


def test_the_bound_of_the_smallest_eigenvalue_holds() -> None:
    values = torch.linspace(-1, 1, 200, dtype=torch.float64) ** 3
    values[0] = -1.2
    for steps in (6, 10, 20, 40):
        spectrum = run(symmetric(values), steps)
        error = float(spectrum.ritz_values[0]) + 1.2
        assert -1e-14 <= error <= spectrum.error_bound(0) + 1e-14


def test_a_smallest_eigenvalue_lost_in_rounding_counts_as_known() -> None:
    values = torch.zeros(60, dtype=torch.float64)
    values[-3:] = torch.tensor([1.0, 4.0, 9.0])
    values[0] = -1e-12
    assert run(symmetric(values), 12, dtype=torch.float32).knows_smallest(1e-3)
    assert not run(symmetric(torch.linspace(-1, 1, 200)), 4).knows_smallest(1e-3)


def test_the_basis_is_orthonormal_over_blocks() -> None:
    for dtype, close in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        values = torch.linspace(-1, 1, 120, dtype=torch.float64)
        spectrum = run(symmetric(values), 8, tolerance=1e-14, dtype=dtype)
        assert len(spectrum.basis) > 1
        Q = torch.cat(spectrum.basis).double()
        assert float((Q @ Q.t() - torch.eye(len(Q))).abs().max()) < close


def test_the_density_has_the_moments_of_the_start_vector() -> None:
    # Gauss quadrature with m nodes is exact for v^T H^k v, k < 2 m.
    H = symmetric(torch.linspace(-1, 2, 90, dtype=torch.float64))
    spectrum = run(H, 6)
    v = rademacher(90, generator(1), torch.float64, CPU) / 90**0.5
    assert float(spectrum.weights.sum()) == pytest.approx(1, abs=1e-13)
    for k in range(12):
        moment = float(v @ torch.linalg.matrix_power(H, k) @ v)
        assert float(spectrum.weights @ spectrum.ritz_values**k) == pytest.approx(moment, abs=1e-11)


def test_the_short_run_is_the_long_one_while_nothing_has_converged() -> None:
    H = symmetric(torch.linspace(-1, 2, 90, dtype=torch.float64))
    start = rademacher(90, generator(1), torch.float64, CPU)
    short, long = short_lanczos(lambda v: H @ v, start, 12), run(H, 12)
    for name in ("ritz_values", "weights", "residuals"):
        torch.testing.assert_close(getattr(short, name), getattr(long, name), rtol=1e-8, atol=1e-12)
    assert short.basis == ()


def test_copies_in_a_short_run_share_the_weight_of_their_eigenvalue() -> None:
    H = symmetric(decaying(300))
    start = rademacher(300, generator(1), torch.float64, CPU)
    short, long = short_lanczos(lambda v: H @ v, start, 80), run(H, 80)
    assert int((short.ritz_values > 19).sum()) > 1  # else the test shows nothing
    for low, high in ((19, 21), (7, 9), (2, 4), (-3, -1)):
        both = [
            float(s.weights[(s.ritz_values > low) & (s.ritz_values < high)].sum())
            for s in (short, long)
        ]
        assert both[0] == pytest.approx(both[1], rel=1e-8)
    distance = (short.ritz_values[:, None] - decaying(300)).abs().amin(1)
    assert bool((distance <= short.residuals + 1e-12).all())


def test_a_short_run_ends_where_it_closes() -> None:
    for scale in (0.0, -2.0):
        spectrum = short_lanczos(lambda v, scale=scale: scale * v, torch.ones(5).double(), 3)
        assert spectrum.ritz_values.tolist() == pytest.approx([scale])
        assert spectrum.weights.tolist() == [1]
        assert float(spectrum.residuals.max()) < 1e-14


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_products_that_are_not_finite_are_an_error(bad: float) -> None:
    with pytest.raises(MetricError, match="not finite"):
        lanczos(lambda v: v * bad, torch.ones(5), 3, generator(0))
    with pytest.raises(MetricError, match="not finite"):
        short_lanczos(lambda v: v * bad, torch.ones(5), 3)
