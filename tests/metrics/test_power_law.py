"""Laws of power laws fitted to spectra: known exponents, SciPy's distance, and invariances."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from point_support import cnn, generator, mlp, seeded
from scipy import stats
from test_sharpness import vectors
from torch import nn

from phasegrid.errors import MetricError
from phasegrid.metrics import METRICS
from phasegrid.metrics.power_law.compute import compute, eigenvalues
from phasegrid.metrics.power_law.fitting import draw_power_law, fit_power_law, p_value


def measure(module: nn.Module, seed: int = 0, **args: Any) -> dict[str, Any]:
    row: dict[str, Any] = compute([module], vectors(), generator(seed), **args)
    assert set(row) == {column.name for column in METRICS["power_law"].columns}
    lists = [value for name, value in row.items() if name.startswith("layer_")]
    assert {len(value) for value in lists} == {len(row["layers"])}
    return row


def test_a_known_exponent_is_found_within_its_error() -> None:
    for alpha in (2.0, 3.5):
        x = draw_power_law(alpha, 0.7, 1500, np.random.default_rng(1))
        fit = fit_power_law(x, 50)
        assert fit is not None
        assert abs(fit.alpha - alpha) < 4 * fit.alpha_stderr


def test_the_beginning_of_the_tail_is_found() -> None:
    """Below 2 the numbers are uniform."""
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.uniform(0.1, 2, 2000), draw_power_law(2.5, 2.0, 2000, rng)])
    fit = fit_power_law(x, 50)
    assert fit is not None
    assert 1.8 < fit.x_min < 2.8
    assert abs(fit.alpha - 2.5) < 4 * fit.alpha_stderr


def test_fit_and_distance_are_those_of_a_search_by_scipy() -> None:
    x = np.random.default_rng(3).lognormal(size=60)
    best = min(
        (
            stats.kstest(tail, stats.pareto(1 / np.log(tail / tail[0]).mean(), scale=tail[0]).cdf).statistic,
            1 + 1 / np.log(tail / tail[0]).mean(),
            tail[0],
        )
        for i in range(60 - 10 + 1)
        for tail in [np.sort(x)[i:]]
    )  # fmt: skip
    fit = fit_power_law(x, 10)
    assert fit is not None
    assert (fit.ks_distance, fit.alpha, fit.x_min) == pytest.approx(best, rel=1e-12)
    assert fit.alpha_stderr == pytest.approx((fit.alpha - 1) / math.sqrt(fit.num_tail))


def test_the_p_value_tells_a_power_law_from_what_is_none() -> None:
    rng = np.random.default_rng(4)
    found = {}
    for name, x in (
        ("power law", draw_power_law(2.5, 1.0, 200, rng)),
        ("uniform", rng.uniform(1, 2, 200)),
    ):
        fit = fit_power_law(x, 100)
        assert fit is not None
        found[name] = p_value(x, fit, 100, 40, rng)
    assert found["power law"] > 0.1
    assert found["uniform"] < 0.05


def test_eigenvalues_are_squares_of_singular_values_of_the_matrices() -> None:
    kernel = torch.randn(5, 3, 2, 2, generator=generator(0), dtype=torch.float64)
    unfolded = np.linalg.svd(kernel.reshape(5, 12).numpy(), compute_uv=False) ** 2
    assert np.sort(eigenvalues(kernel, "unfolded")) == pytest.approx(np.sort(unfolded))
    each = [
        np.linalg.svd(kernel[:, :, i, j], compute_uv=False) ** 2 for i in (0, 1) for j in (0, 1)
    ]
    found = np.sort(eigenvalues(kernel, "positions"))
    assert found == pytest.approx(np.sort(np.concatenate(each)))


def test_zeros_of_a_matrix_of_low_rank_are_no_eigenvalues() -> None:
    tall = torch.randn(20, 3, generator=generator(0), dtype=torch.float64)
    assert len(eigenvalues((tall @ tall.t()).float().double(), "unfolded")) == 3


def test_scaling_a_layer_moves_the_weighted_exponent_alone() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 3)))
    before = measure(module)
    module[0].weight.data *= 10  # type: ignore[union-attr, index]
    after = measure(module)
    assert before["num_layers"] == 1
    assert after["alpha"] == pytest.approx(before["alpha"])
    assert after["alpha_hat"] - before["alpha_hat"] == pytest.approx(2 * before["alpha"])


def test_the_mean_is_over_the_layers_that_have_a_fit() -> None:
    module = seeded(
        lambda: nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 20), nn.Linear(20, 3))
    )
    row = measure(module, bootstrap=3)
    assert row["layers"] == ["0", "2", "3"]
    assert (row["num_layers"], row["layer_alpha"][2]) == (2, None)
    assert row["layer_num_eigenvalues"] == [30, 20, 3]
    alphas = row["layer_alpha"][:2]
    assert row["alpha"] == pytest.approx(sum(alphas) / 2)
    assert row["alpha_stderr"] == pytest.approx(abs(alphas[0] - alphas[1]) / 2)
    largest = row["layer_x_max"][:2]
    weighted = [alpha * math.log10(x) for alpha, x in zip(alphas, largest, strict=True)]
    assert row["alpha_hat"] == pytest.approx(sum(weighted) / 2)
    assert all(0 <= p <= 1 for p in row["layer_p_value"][:2])
    assert measure(module, bootstrap=3) == row


def test_small_networks_have_no_fit_and_no_number() -> None:
    row = measure(seeded(cnn))
    assert row["alpha"] is row["alpha_hat"] is row["alpha_stderr"] is None
    assert row["num_layers"] == 0


def test_what_has_no_spectrum_is_refused() -> None:
    with pytest.raises(MetricError, match="power_law is measured on one model, got 2"):
        compute([seeded(mlp)] * 2, vectors(), generator(0))
    with pytest.raises(MetricError, match="LayerNorm has no trainable tensor of two dimensions"):
        measure(nn.LayerNorm(3))
    broken = seeded(mlp)
    broken[0].weight.data.fill_(math.inf)  # type: ignore[union-attr, index]
    with pytest.raises(MetricError, match="power_law: the weights are not finite"):
        measure(broken)
