"""What is said about a complex: volumes and points by the number of connectors, its dimension, the
published code's value, lambdas, where connectors start, and BatchNorm.
"""

import math
from typing import Any

import pytest
import torch
from metric_oracles_curves import cayley_menger_squared_volume
from simplex_rows import compute
from test_simplex import QUICK, UNASKED, data_for, network, networks, rows_of, seeded
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.metrics.measured import Measured, Source
from phasegrid.metrics.network.left import Refresh, networks_at
from phasegrid.metrics.plane.compute import compute as plane
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex import compute as engine
from phasegrid.metrics.simplex.arguments import lambda_of_each_connector
from phasegrid.metrics.simplex.complexes import Complex
from phasegrid.metrics.simplex.dimension import log_height, num_sound
from phasegrid.metrics.simplex.lambdas import connector_lambdas
from phasegrid.metrics.simplex.left import read_complex
from phasegrid.metrics.simplex.volume import log_volume
from phasegrid.metrics.simplex.wiring import shared
from phasegrid.metrics.vertex_path.compute import compute as vertex_path
from phasegrid.models.evaluation import evaluate


def measured(num: int = 3, models: Any = None, **args: Any) -> Measured:
    models = networks(num) if models is None else models
    return engine.compute(models, data_for(), seeded(), **{**QUICK, "connectors": 3, **args})


def vertices_of(found: Measured, num: int = 3) -> Tensor:
    return torch.cat([rows_of(networks(num)), found.artifacts["complex"]["connectors"]])


def test_lists_by_connector_end_with_the_whole_complex() -> None:
    row = measured(every_connector=True).rows
    assert row["first_connectors"] == [1.0, 2.0, 3.0]
    for name in ("log_volume", "log_code_volume", "expected_train_loss", "expected_test_loss"):
        assert len(row[f"first_{name}"]) == 3
        assert row[f"first_{name}"][-1] == row[name]
    assert row["first_lowest_train_accuracy_percent"][-1] == row["lowest_train_accuracy_percent"]


def test_measuring_every_connector_changes_no_other_number() -> None:
    few, every = measured().rows, measured(every_connector=True).rows
    assert {name for name, value in few.items() if value is None} == UNASKED
    assert {name: every[name] for name in few if name not in UNASKED} == {
        name: value for name, value in few.items() if name not in UNASKED
    }


def test_volumes_by_connector_are_those_of_the_first_ones() -> None:
    found = measured()
    vertices = vertices_of(found)
    for count, volume in enumerate(found.rows["first_log_volume"], start=1):
        whole = [log_volume(vertices[[i, *range(3, 3 + count)]]) for i in range(3)]
        assert volume == pytest.approx(math.log(sum(map(math.exp, whole))), abs=1e-10)


def test_what_the_code_calls_volume_is_the_cayley_menger_value_of_the_first_simplex() -> None:
    found = measured()
    first = vertices_of(found)[[0, 3, 4, 5]]
    squared = float(cayley_menger_squared_volume(list(first)))
    assert found.rows["log_code_volume"] == pytest.approx(math.log(squared), abs=1e-8)


def test_height_of_a_connector_is_its_volume_over_that_of_the_faces() -> None:
    row = measured().rows
    volumes, heights = row["first_log_volume"], row["first_log_height"]
    before = [math.log(3), *volumes]  # three modes are three points of volume 1
    for k in (1, 2, 3):
        expected = math.log(k) + volumes[k - 1] - before[k - 1]
        assert heights[k - 1] == pytest.approx(expected, abs=1e-10)


def test_a_vertex_in_the_span_of_the_others_has_no_height() -> None:
    vertices = torch.randn(4, 9, generator=seeded(), dtype=torch.float64)
    vertices = torch.cat([vertices, vertices[2:].mean(0, keepdim=True)])
    assert log_height(Complex(vertices, ((0, 2, 3, 4), (1, 2, 3, 4))), 4) == -math.inf


@pytest.mark.parametrize(
    ("heights", "accuracies", "expected"),
    [
        ([0.0, -1.0, -2.0], [99.0, 98.0, 97.0], 3),
        ([0.0, -1.0, -3.1], [99.0, 98.0, 97.0], 2),  # log 0.05 is about -3.0
        ([0.0, -1.0, -1.0], [99.0, 94.9, 97.0], 1),
        ([0.0, -1.0, -1.0], [94.9, 99.0, 97.0], 0),
        ([0.0, None, -1.0], [99.0, 99.0, 99.0], 1),
        ([None, None], [None, None], 0),
    ],
)
def test_dimension_ends_where_a_height_collapses_or_a_sample_is_bad(
    heights: list[float | None], accuracies: list[float | None], expected: int
) -> None:
    assert num_sound(heights, accuracies, 0.05, 95.0) == expected


def test_dimension_of_a_row_is_the_number_of_sound_connectors() -> None:
    row = measured(every_connector=True, least_accuracy_percent=0.0, collapse=1e-6).rows
    assert row["low_loss_dimension"] == 3.0
    low = measured(every_connector=True, least_accuracy_percent=100.0).rows
    assert low["low_loss_dimension"] == 0.0


def test_lowest_accuracy_is_that_of_the_worst_point() -> None:
    row = measured(eval_samples=40).rows
    assert row["lowest_train_accuracy_percent"] <= row["expected_train_accuracy_percent"]


def test_divergence_is_said() -> None:
    assert measured().rows["diverged"] is False
    row = measured(lr=1e308, every_connector=True).rows
    assert row["diverged"] is True
    assert row["first_expected_train_loss"] == [None] * 3
    assert row["low_loss_dimension"] == 0.0


def lambdas(num_modes: int = 2, **args: Any) -> list[float]:
    settings = SimplexArgs(connectors=3, **args)
    simplexes = shared(num_modes, 3)
    return connector_lambdas(network(0), simplexes, num_modes, settings, seeded())


def fresh(num: int) -> Tensor:
    """The weights of networks that are initialised anew, drawn as lambdas draw them."""
    rng, net, rows = seeded(), network(0), []
    for _ in range(num):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(1 << 62, (), generator=rng)))
            for place in (0, 2):
                net[place].reset_parameters()  # type: ignore[index]
        rows.append(rows_of([net])[0])
    return torch.stack(rows)


def test_one_lambda_serves_every_connector() -> None:
    assert lambdas(volume_lambda=0.5) == [0.5] * 3


@pytest.mark.parametrize(("num_modes", "counts"), [(2, [None, 4, 5]), (1, [2, 3, 4])])
def test_lambdas_of_the_code_follow_its_squared_volume_of_fresh_networks(
    num_modes: int, counts: list[int | None]
) -> None:
    vertices = fresh(num_modes + 3)
    expected = []
    for count in counts:
        if count is None:
            expected.append(0.0)
            continue
        squared = float(cayley_menger_squared_volume(list(vertices[:count])))
        expected.append(max(0.1 / math.log(squared + 1e-4), 1e-8))
    found = lambdas(num_modes, volume_lambda=0.1, volume_schedule="code")
    assert found == pytest.approx(expected, rel=1e-6)


def test_lambdas_of_the_paper_follow_the_volume_of_the_complex_of_fresh_networks() -> None:
    vertices = fresh(5)
    expected = []
    for j in range(3):
        logs = [log_volume(vertices[[i, *range(2, 3 + j)]]) for i in range(2)]
        total = math.log(sum(map(math.exp, logs)))
        expected.append(0.1 / total if total > 0 else 1e-8)
    found = lambdas(volume_lambda=0.1, volume_schedule="paper")
    assert found == pytest.approx(expected, rel=1e-9)
    assert found[0] > 1e-8  # the distance of two networks is above 1 here


def test_a_schedule_makes_lambdas_of_one_number_only() -> None:
    args = {"volume_lambda": (0.1, 0.2, 0.3), "volume_schedule": "code"}
    with pytest.raises(MetricError, match="and the schedule code; give one number"):
        lambdas(**args)
    found = lambda_of_each_connector({**args, "connectors": 3})
    assert found == (
        "volume_schedule",
        "makes a lambda for each connector of one number; found a list",
    )


def test_a_schedule_needs_layers_that_can_be_initialised() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w

    settings = SimplexArgs(volume_schedule="code")
    with pytest.raises(
        MetricError, match=r"'' \(Fixed\) has parameters.*volume_schedule: constant"
    ):
        connector_lambdas(Fixed(), shared(2, 1), 2, settings, seeded())


@pytest.mark.parametrize(("start", "beside"), [("simplexes", [1, 2]), ("all", [0, 1, 2, 3])])
def test_a_connector_starts_at_the_mean_that_is_asked_for(start: str, beside: list[int]) -> None:
    wiring = [["w0", "c0"], ["w1", "c0"], ["w1", "w2", "c1"]]
    still = {"lr": 1e-300, "jitter": 1e-9, "connectors": 2}
    vertices = vertices_of(measured(wiring=wiring, start=start, **still))
    torch.testing.assert_close(vertices[4], vertices[beside].mean(0), rtol=1e-6, atol=1e-7)


def normalised(num: int = 2) -> list[nn.Module]:
    """Networks with BatchNorm statistics of their own, far from those of the data."""
    models = networks(num, batch_norm=True)
    for index, model in enumerate(models):
        model[1].running_mean.fill_(0.2 * index)  # type: ignore[index]
        model[1].running_var.fill_(2.0 + index)  # type: ignore[index]
    return models


def test_saved_statistics_are_mixed_as_the_weights_are() -> None:
    models, data = normalised(), data_for()
    found = measured(models=models, batch_norm="saved", connectors=1)
    args = {"batch_size": 20, "batch_norm": "saved"}
    complex_ = read_complex(
        models, [Source(found.artifacts["complex"], "complex", "simplex", args)], "a test"
    )
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.25, 0.75]]).double()
    first, second, between = networks_at(complex_, weights, models[0], data, Refresh(), seeded())
    for one, model in ((first, models[0]), (second, models[1])):
        for name, value in one.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])
    # The connector has the mean of its modes: 0.1 and 2.5.
    norm = between.get_submodule("1")
    torch.testing.assert_close(norm.running_mean, torch.full((6,), 0.125, dtype=torch.float64))
    torch.testing.assert_close(norm.running_var, torch.full((6,), 2.625, dtype=torch.float64))


def test_planes_and_paths_of_a_complex_have_its_statistics() -> None:
    models, data = normalised(), data_for()
    found = measured(models=models, batch_norm="saved", connectors=1)
    args = {"batch_size": 20, "batch_norm": "saved"}
    source = Source(found.artifacts["complex"], "complex", "simplex", args)
    row: Any = found.rows
    own = {name: row[f"vertex_{name}"] for name in ("train_loss", "test_loss")}
    path = vertex_path(models, data, seeded(), [source], through=("w0", "w1", "c0"), points=1)
    surface = plane(models, data, seeded(), [source], vertices=("w0", "c0", "w1"), points=2)
    for name, losses in own.items():
        assert path[name] == pytest.approx(losses, rel=1e-9)
        assert surface[f"points_{name}"] == pytest.approx(losses, rel=1e-9)
    first = evaluate(models[0], data.train_inputs, data.train_labels).loss
    assert path["train_loss"][0] == pytest.approx(first, rel=1e-9)  # type: ignore[index]


def test_a_complex_that_is_one_network_has_its_saved_loss() -> None:
    model, data = normalised(2)[1], data_for()
    args: dict[str, Any] = {**QUICK, "lr": 1e-300, "jitter": 1e-9, "batch_norm": "saved"}
    row = compute([model, model], data, seeded(), **args)
    saved = evaluate(model, data.train_inputs, data.train_labels).loss
    assert row["expected_train_loss"] == pytest.approx(saved, rel=1e-6)
    assert row["connector_losses"][0] == pytest.approx(saved, rel=1e-6)  # not of batch statistics
    grown = engine.compute_espro([model], data, seeded(), **args).rows
    assert grown["connector_losses"][0] == pytest.approx(saved, rel=1e-6)
    refreshed = compute([model, model], data, seeded(), **{**args, "batch_norm": "refreshed"})
    assert abs(refreshed["expected_train_loss"] - saved) > 1e-3
