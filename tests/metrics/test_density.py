"""The deflated density against spectra that are known: exact weights where a run has converged, and
less error.
"""

import pytest
import torch
from oracles import lanczos_quadrature
from point_support import decaying, generator, mlp, seeded, symmetric
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from phasegrid.metrics.hessian import HessianArgs
from phasegrid.metrics.hessian.basis import rademacher
from phasegrid.metrics.hessian.density import (
    Density,
    converged,
    deflated_density,
    measure_spectrum,
    probe_rest,
)
from phasegrid.metrics.hessian.lanczos import Spectrum, lanczos
from phasegrid.metrics.hessian.operator import HessianOperator

CPU = torch.device("cpu")


def runs(
    H: Tensor, steps: int, probes: int = 1, seed: int = 1, dtype: torch.dtype = torch.float64
) -> tuple[Spectrum, list[Spectrum]]:
    H = H.to(dtype)
    rng = generator(seed)
    first = lanczos(lambda v: H @ v, rademacher(len(H), rng, dtype, CPU), steps, rng)
    return first, [probe_rest(lambda v: H @ v, first, steps, rng) for _ in range(probes - 1)]


def density(H: Tensor, steps: int, probes: int = 1, seed: int = 1) -> Density:
    first, others = runs(H, steps, probes, seed)
    return deflated_density(first, others, len(H))


def error(nodes: Tensor, weights: Tensor, values: Tensor) -> float:
    """Wasserstein distance to the spectrum `values`, over the largest of them."""
    return float(wasserstein_distance(nodes, values, weights) / values.abs().max())


def average(spectra: list[Spectrum]) -> tuple[Tensor, Tensor]:
    """Plain stochastic Lanczos quadrature."""
    nodes = torch.cat([s.ritz_values for s in spectra])
    return nodes, torch.cat([s.weights / len(spectra) for s in spectra])


@pytest.mark.parametrize("probes", [1, 3])
def test_outliers_have_exactly_their_weight(probes: int) -> None:
    found = density(symmetric(decaying(300)), 20, probes)
    outliers = found.nodes.abs() > 0.5
    torch.testing.assert_close(
        found.nodes[outliers], torch.tensor([-2.0, 1.0, 3.0, 8.0, 20.0], dtype=torch.float64)
    )
    assert found.weights[outliers].tolist() == [1 / 300] * 5
    assert float(found.weights.sum()) == pytest.approx(1, abs=1e-14)
    assert bool((found.nodes.diff() >= 0).all())


def test_the_rest_is_shared_as_the_quadrature_says() -> None:
    H = symmetric(decaying(300))
    start = rademacher(300, generator(1), torch.float64, CPU)
    nodes, weights = lanczos_quadrature(lambda v: H @ v, start, 20)
    first, _ = runs(H, 20)
    found = converged(first, 300)
    k = int(found.sum())
    assert 5 <= k < 20
    expected = torch.where(found, 1 / 300, weights / weights[~found].sum() * (300 - k) / 300)
    got = deflated_density(first, [], 300)
    torch.testing.assert_close(got.nodes, nodes, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(got.weights, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("probes", [1, 3])
def test_the_density_scales_with_the_operator(probes: int) -> None:
    H = symmetric(decaying(200))
    plain = density(H, 20, probes)
    for factor in (2.0**-60, 2.0**30):  # powers of two: equal to the last bit
        scaled = density(factor * H, 20, probes)
        assert torch.equal(scaled.nodes, factor * plain.nodes)
        assert torch.equal(scaled.weights, plain.weights)


@pytest.mark.parametrize("probes", [1, 3])
def test_it_is_nearer_to_the_spectrum_than_the_plain_quadrature(probes: int) -> None:
    values = decaying(300).sort().values
    H = symmetric(values)
    plain, deflated = [], []
    for seed in range(8):
        rng = generator(seed)
        starts = [rademacher(300, rng, torch.float64, CPU) for _ in range(probes)]
        spectra = [lanczos(lambda v: H @ v, start, 20, rng) for start in starts]
        plain.append(error(*average(spectra), values))
        found = density(H, 20, probes, seed)
        deflated.append(error(found.nodes, found.weights, values))
    assert max(deflated) < 0.2 * min(plain)


def test_a_spectrum_without_outliers_is_no_worse() -> None:
    values = torch.linspace(0, 1, 300, dtype=torch.float64)
    H = symmetric(values)
    plain, deflated = [], []
    for seed in range(8):
        first, _ = runs(H, 20, seed=seed)
        found = deflated_density(first, [], 300)
        plain.append(error(first.ritz_values, first.weights, values))
        deflated.append(error(found.nodes, found.weights, values))
    # Nothing converges but now and then an end of the spectrum.
    assert sum(deflated) <= 1.02 * sum(plain)


def test_a_complete_run_is_the_spectrum() -> None:
    values = torch.tensor([-1.0, 0.0, 0.0, 0.0, 2.0, 2.0, 5.0], dtype=torch.float64)
    first, _ = runs(symmetric(values), 50)
    found = deflated_density(first, [], 7)
    torch.testing.assert_close(found.nodes, values, atol=1e-12, rtol=0)
    assert found.weights.tolist() == [1 / 7] * 7


def test_close_eigenvalues_that_a_run_tells_apart_count_as_two() -> None:
    values = decaying(300)
    values[10] = 8.0 * (1 + 1e-4)
    found = density(symmetric(values), 40)
    pair = (found.nodes > 7.9) & (found.nodes < 8.1)
    assert found.weights[pair].tolist() == [1 / 300] * 2


def test_close_eigenvalues_not_told_apart_keep_the_weight_of_the_quadrature() -> None:
    values = decaying(300)
    values[10:20] = torch.linspace(5, 6, 10, dtype=torch.float64)
    first, _ = runs(symmetric(values), 10)
    inside = (first.ritz_values > 4.5) & (first.ritz_values < 6.5)
    assert int(inside.sum()) < 10
    assert not bool(converged(first, 300)[inside].any())


def test_of_a_double_eigenvalue_further_runs_find_the_other_vector() -> None:
    values = decaying(300)
    values[10] = 8.0
    values, H = values.sort().values, symmetric(values)
    first, others = runs(H, 7, probes=4)  # from some 12 steps on rounding shows the second vector
    assert int((first.ritz_values > 7.9).sum()) == 2
    assert converged(first, 300)[-2:].tolist() == [True, True]
    for other in others:
        assert float(other.ritz_values[-1]) == pytest.approx(8.0, rel=1e-9)


def test_a_null_space_is_not_one_eigenvalue() -> None:
    values = torch.zeros(500, dtype=torch.float64)
    values[-20:] = torch.logspace(-2, 1, 20, dtype=torch.float64)
    found = density(symmetric(values), 21)  # one step for each of the 21 different eigenvalues
    torch.testing.assert_close(found.nodes, values[-21:], atol=1e-12, rtol=0)
    assert found.weights[1:].tolist() == [1 / 500] * 20
    assert float(found.weights[0]) == pytest.approx(480 / 500, abs=1e-14)


def test_of_what_the_start_did_not_see_nothing_is_said() -> None:
    # Sign vectors are eigenvectors of every block: the start sees one of two eigenvalues of each.
    scales = torch.linspace(1, 3, 30, dtype=torch.float64)
    block = torch.tensor([[-0.5, 1.5], [1.5, -0.5]], dtype=torch.float64)
    H = torch.block_diag(*[scale * block for scale in scales])
    first, others = runs(H, 30, probes=3)
    assert bool(converged(first, 60).all())
    alone = deflated_density(first, [], 60)
    torch.testing.assert_close(alone.weights, first.weights)
    together = deflated_density(first, others, 60)
    for theta in first.ritz_values:
        assert float(together.weights[(together.nodes - theta).abs() < 1e-9].sum()) >= 1 / 60
    values = torch.linalg.eigvalsh(H)
    assert error(together.nodes, together.weights, values) < error(
        alone.nodes, alone.weights, values
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_further_runs_see_nothing_of_what_was_found(dtype: torch.dtype) -> None:
    values = decaying(300)
    H = symmetric(values)
    first, others = runs(H, 20, probes=3, dtype=dtype)
    assert int(converged(first, 300).sum()) >= 5
    for other in others:
        assert float(other.ritz_values.abs().max()) < 0.0101
        distance = (other.ritz_values[:, None] - values).abs().amin(1)
        assert bool((distance <= other.residuals + 1e-14).all())


def test_only_the_first_run_keeps_its_basis() -> None:
    rng = generator(3)
    inputs = torch.randn(12, 4, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, 3, (12,), generator=rng)
    H = HessianOperator(seeded(lambda: mlp(nn.Tanh, width=12)), inputs, labels)
    spectra, _ = measure_spectrum(H, HessianArgs(steps=6, density_probes=3), generator(0))
    assert [len(s.basis) > 0 for s in spectra] == [True, False, False]
    assert H.num_products == sum(len(s.ritz_values) for s in spectra)
