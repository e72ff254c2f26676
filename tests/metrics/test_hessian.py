"""The Hessian metric: against dense Hessians, and against what BatchNorm, chunks and scale must not
change.
"""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from oracles import dense_hessian
from point_support import Residual, cnn, dataset, generator, images, mlp, seeded
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.metrics.hessian import HESSIAN, HessianArgs
from phasegrid.metrics.hessian.compute import compute
from phasegrid.metrics.hessian.lanczos import Spectrum
from phasegrid.metrics.hessian.operator import HessianOperator
from phasegrid.metrics.hessian.preparing import draw_examples, prepare
from phasegrid.metrics.network.folding import FoldedConvolution, fold_batch_norm


def measure(
    module: nn.Module, inputs: Tensor, labels: Tensor, seed: int = 0, **args: Any
) -> dict[str, Any]:
    settings = dataclasses.asdict(HessianArgs(**{"examples": len(labels), **args}))
    row: dict[str, Any] = compute([module], dataset(inputs, labels), generator(seed), **settings)
    return row


def flat_inputs(num: int = 12) -> tuple[Tensor, Tensor]:
    rng = generator(3)
    return (
        torch.randn(num, 4, generator=rng, dtype=torch.float64),
        torch.randint(0, 3, (num,), generator=rng),
    )


NETWORKS = {
    "mlp": (mlp, flat_inputs),
    "cnn": (cnn, lambda: images(7)),
    "residual": (Residual, lambda: images(6)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_those_of_the_dense_hessian(name: str) -> None:
    make, draw = NETWORKS[name]
    module, (inputs, labels) = seeded(make), draw()
    H = dense_hessian(module, inputs, labels)
    operator = HessianOperator(module, inputs, labels)
    for seed in range(3):
        v = torch.randn(operator.size, generator=generator(seed), dtype=torch.float64)
        torch.testing.assert_close(operator(v), H @ v, rtol=1e-10, atol=1e-12)
    assert operator.num_products == 3


def test_folding_changes_neither_outputs_nor_products(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, labels = images(6)
    for make, layers in ((cnn, 2), (Residual, 2)):
        module = seeded(make)
        folded = fold_batch_norm(module)
        assert sum(isinstance(layer, FoldedConvolution) for layer in folded.modules()) == layers
        torch.testing.assert_close(folded(inputs), module(inputs), rtol=1e-12, atol=1e-12)
        fast = HessianOperator(module, inputs, labels)
        v = torch.randn(fast.size, generator=generator(0), dtype=torch.float64)
        with monkeypatch.context() as patch:
            patch.setattr("phasegrid.metrics.network.folding.fold_batch_norm", lambda m: m)
            plain = HessianOperator(module, inputs, labels)
        torch.testing.assert_close(fast(v), plain(v), rtol=1e-10, atol=1e-13)


def _shared_normalisation() -> nn.Module:
    norm = nn.BatchNorm2d(2)
    return nn.Sequential(nn.Conv2d(2, 2, 1), norm, nn.Conv2d(2, 2, 1), norm)


class _UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class _Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if bool(x.sum() > 0) else x


@pytest.mark.parametrize(
    "make",
    [
        _shared_normalisation, _UsedTwice, _Branching,
        lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)),
        lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)),
        lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.BatchNorm2d(2)),
    ],
)  # fmt: skip
def test_what_cannot_be_folded_is_left_alone(make: type[nn.Module]) -> None:
    module = seeded(make)
    assert fold_batch_norm(module) is module
    training = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)).train()
    assert fold_batch_norm(training) is training


def test_chunks_do_not_change_products() -> None:
    module, (inputs, labels) = seeded(Residual), images(9)
    kept = HessianOperator(module, inputs, labels)
    rebuilt = HessianOperator(module, inputs, labels, memory_bytes=kept._bytes_per_example() * 4)
    assert (len(kept._chunks), len(rebuilt._chunks)) == (1, 3)
    v = torch.randn(kept.size, generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(kept(v), rebuilt(v), rtol=1e-11, atol=1e-13)
    assert kept.loss == pytest.approx(rebuilt.loss, rel=1e-14)


def test_a_batch_with_its_own_statistics_is_never_cut() -> None:
    inputs, labels = images(9)
    module = prepare(seeded(cnn), "train", inputs, generator(0))
    operator = HessianOperator(module, inputs, labels, memory_bytes=1)
    assert len(operator._chunks) == 1
    H = dense_hessian(module, inputs, labels)
    v = torch.randn(operator.size, generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(operator(v), H @ v, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_row_is_that_of_the_dense_spectrum(name: str) -> None:
    make, draw = NETWORKS[name]
    module, (inputs, labels) = seeded(make), draw()
    values = torch.linalg.eigvalsh(dense_hessian(module, inputs, labels))
    row = measure(module, inputs, labels)
    assert set(row) == {column.name for column in HESSIAN.columns}
    assert row["lambda_max"] == pytest.approx(float(values[-1]), rel=1e-6)
    assert row["lambda_min"] == pytest.approx(float(values[0]), abs=1e-3 * float(values[-1]))
    assert row["trace"] == pytest.approx(float(values.sum()), rel=1e-10)
    assert (row["trace_stderr"], row["trace_method"]) == (0, "exact_ggn")
    assert row["num_parameters"] == len(values)
    assert row["num_hvps"] == 40
    assert sum(row["density_weights"]) == pytest.approx(1, abs=1e-12)
    assert row["density_nodes"] == sorted(row["density_nodes"])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_trace_of_a_layer_is_that_of_its_block_of_the_hessian(name: str) -> None:
    make, draw = NETWORKS[name]
    module, (inputs, labels) = seeded(make), draw()
    diagonal = dense_hessian(module, inputs, labels).diagonal()
    sizes = [p.numel() for p in module.parameters()]
    names, wanted = [name for name, _ in module.named_parameters()], dict[str, float]()
    for tensor, part in zip(names, diagonal.split(sizes), strict=True):
        layer = tensor.rpartition(".")[0]
        wanted[layer] = wanted.get(layer, 0.0) + float(part.sum())
    row = measure(module, inputs, labels)
    found = dict(zip(row["layers"], row["layer_traces"], strict=True))
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert sum(row["layer_traces"]) == pytest.approx(row["trace"], rel=1e-12)
    assert measure(module, inputs, labels, trace="hutchinson")["layers"] is None


@pytest.mark.parametrize("steps", [8, 20])
def test_lambda_min_is_known_as_well_as_lambda_max(steps: int) -> None:
    for seed in range(3):
        module, (inputs, labels) = seeded(lambda: mlp(width=12), seed), flat_inputs()
        values = torch.linalg.eigvalsh(dense_hessian(module, inputs, labels))
        row = measure(module, inputs, labels, steps=steps)
        # Known to 1e-3 by the bound; a value that has not been seen at all could only be nearer to
        # 0.
        assert row["lambda_min"] == pytest.approx(float(values[0]), rel=1e-3)
        assert row["lambda_max"] == pytest.approx(float(values[-1]), rel=1e-3)
        assert steps <= row["num_hvps"] <= 4 * steps


def test_what_lambda_min_costs_changes_no_other_number(monkeypatch: pytest.MonkeyPatch) -> None:
    module, (inputs, labels) = seeded(lambda: mlp(nn.Tanh, width=12)), flat_inputs()
    args = {"steps": 8, "density_probes": 3}
    row = measure(module, inputs, labels, **args)
    monkeypatch.setattr(Spectrum, "knows_smallest", lambda _self, _tolerance: True)
    short = measure(module, inputs, labels, **args)
    changed = {name for name in row if row[name] != short[name]}
    assert changed == {"lambda_min", "lambda_min_residual", "num_hvps"}
    assert row["lambda_min_residual"] < short["lambda_min_residual"]


def test_as_many_steps_as_parameters_give_the_exact_density() -> None:
    module, (inputs, labels) = seeded(lambda: nn.Linear(4, 3)), flat_inputs()
    values = torch.linalg.eigvalsh(dense_hessian(module, inputs, labels))
    row = measure(module, inputs, labels, density_probes=3, trace="hutchinson")
    torch.testing.assert_close(
        torch.tensor(row["density_nodes"], dtype=torch.float64), values, atol=1e-12, rtol=0
    )
    assert row["density_weights"] == [1 / 15] * 15
    assert row["num_hvps"] == 15
    assert row["trace_method"] == "exact_spectrum"
    assert row["trace"] == pytest.approx(float(values.sum()), rel=1e-12)


@pytest.mark.parametrize("probes", [1, 3])
def test_what_has_been_found_has_its_exact_weight_in_the_density(probes: int) -> None:
    module, (inputs, labels) = seeded(lambda: mlp(width=12)), flat_inputs()
    values = torch.linalg.eigvalsh(dense_hessian(module, inputs, labels))
    row = measure(module, inputs, labels, density_probes=probes)
    assert row["density_nodes"][-1] == row["lambda_max"]
    assert row["density_nodes"][-3:] == pytest.approx(values[-3:].tolist(), rel=1e-9)
    assert row["density_weights"][-3:] == [1 / len(values)] * 3


def test_the_density_has_the_mean_of_the_spectrum_within_its_sampling_error() -> None:
    module, (inputs, labels) = seeded(lambda: mlp(width=8)), flat_inputs()
    H = dense_hessian(module, inputs, labels)
    off = H - torch.diag(H.diagonal())
    probes = 10
    row = measure(module, inputs, labels, density_probes=probes, steps=5)
    mean = sum(w * x for w, x in zip(row["density_weights"], row["density_nodes"], strict=True))
    # Variance of z^T H z for signs z: twice the squared off-diagonal entries.
    stderr = float((2 * off.square().sum() / probes).sqrt()) / len(H)
    assert abs(mean - float(H.trace()) / len(H)) < 4 * stderr
    assert row["num_hvps"] >= 5 * probes


def test_smooth_networks_get_an_estimate_with_its_error() -> None:
    module, (inputs, labels) = seeded(lambda: mlp(nn.Tanh, width=12)), flat_inputs()
    exact = float(dense_hessian(module, inputs, labels).trace())
    row = measure(module, inputs, labels, steps=10)
    assert row["trace_method"] == "hutchinson_deflated"
    assert row["trace_stderr"] > 0
    assert abs(row["trace"] - exact) < 4 * row["trace_stderr"]
    assert row["num_hvps"] >= 30


def test_hidden_units_may_be_permuted() -> None:
    module, (inputs, labels) = seeded(mlp), flat_inputs()
    order = torch.randperm(5, generator=generator(0))
    permuted = copy.deepcopy(module)
    permuted[0].weight.data = module[0].weight[order].clone()
    permuted[0].bias.data = module[0].bias[order].clone()
    permuted[2].weight.data = module[2].weight[:, order].clone()
    a, b = measure(module, inputs, labels, steps=80), measure(permuted, inputs, labels, steps=80)
    for name in ("lambda_max", "lambda_min", "trace", "loss"):
        assert a[name] == pytest.approx(b[name], rel=1e-9), name


def test_float32_agrees_with_float64_to_1e_3() -> None:
    module, (inputs, labels) = seeded(Residual), images(12)
    double = measure(module, inputs, labels)
    single = measure(module.float(), inputs.float(), labels)
    assert single["lambda_max"] == pytest.approx(double["lambda_max"], rel=1e-4)
    assert single["trace"] == pytest.approx(double["trace"], rel=1e-5)


def test_confident_networks_keep_their_curvature_in_float32() -> None:
    # With 1 - p near 1e-9 a loss taken in float32 is 0, and so is its Hessian.
    module, (inputs, labels) = seeded(mlp), flat_inputs()
    module[4].bias.data = torch.tensor([20.0, 0.0, 0.0], dtype=torch.float64)
    labels = torch.zeros_like(labels)
    double = measure(module, inputs, labels)
    single = measure(module.float(), inputs.float(), labels)
    assert 0 < double["lambda_max"] < 1e-6
    assert single["lambda_max"] == pytest.approx(double["lambda_max"], rel=1e-3)
    assert single["loss"] == pytest.approx(double["loss"], rel=1e-4)


def test_batch_norm_policies_give_different_numbers_and_are_recorded() -> None:
    module, (inputs, labels) = seeded(cnn), images(40)
    rows = [
        measure(module, inputs, labels, batch_norm=p) for p in ("as_saved", "refreshed", "train")
    ]
    assert [row["batch_norm"] for row in rows] == ["as_saved", "refreshed", "train"]
    assert len({round(row["loss"], 9) for row in rows}) == 3
    assert rows[2]["trace_method"] == "hutchinson_deflated"
    # One refreshing batch has the batch's mean and its unbiased variance: close to the batch's own
    # statistics.
    assert rows[1]["loss"] == pytest.approx(rows[2]["loss"], rel=0.05)
    plain = measure(seeded(mlp), *flat_inputs(), batch_norm="refreshed")
    assert plain["batch_norm"] is None


def test_the_model_is_not_changed() -> None:
    inputs, labels = images(8)
    for policy in ("as_saved", "refreshed", "train"):
        module = seeded(cnn).train()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        measure(module, inputs, labels, batch_norm=policy, steps=4)
        assert module.training
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
        assert all(p.grad is None for p in module.parameters())


def test_equal_generators_give_equal_rows_and_others_do_not() -> None:
    module, (inputs, labels) = seeded(lambda: mlp(nn.Tanh, width=8)), flat_inputs()
    state = torch.random.get_rng_state()
    first, again = (measure(module, inputs, labels, steps=4) for _ in range(2))
    assert first == again
    assert measure(module, inputs, labels, seed=1, steps=4)["trace"] != first["trace"]
    assert torch.equal(state, torch.random.get_rng_state())


def test_examples_are_distinct_and_the_same_for_every_trial() -> None:
    inputs = torch.arange(50.0).view(50, 1)
    data = dataset(inputs, torch.arange(50))
    chosen, labels = draw_examples(data, 20, 0)
    assert len(set(labels.tolist())) == 20
    assert chosen.flatten().tolist() == labels.tolist()
    assert torch.equal(draw_examples(data, 20, 0)[1], labels)
    assert not torch.equal(draw_examples(data, 20, 1)[1], labels)
    assert len(draw_examples(data, 200, 0)[1]) == 50


def test_frozen_and_unused_parameters_count_as_they_should() -> None:
    module, (inputs, labels) = seeded(mlp), flat_inputs()
    module[0].weight.requires_grad_(False)
    module.add_module("unused", nn.Identity())
    module[2].register_parameter("extra", nn.Parameter(torch.zeros(2, dtype=torch.float64)))
    H = dense_hessian_of_used(module, inputs, labels)
    row = measure(module, inputs, labels, steps=200, trace="hutchinson")
    assert row["num_parameters"] == 5 + 30 + 2 + 18
    assert row["trace"] == pytest.approx(float(H.trace()), rel=1e-9)


def dense_hessian_of_used(module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    used = copy.deepcopy(module)
    del used[2].extra
    return dense_hessian(used, inputs, labels)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    module, (inputs, labels) = seeded(mlp), flat_inputs()
    module[0].weight.data[0, 0] = float("nan")
    with pytest.raises(MetricError, match="the loss is nan on 12 examples"):
        measure(module, inputs, labels)


def test_outputs_that_are_not_logits_are_an_error() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 1)).double()
    with pytest.raises(MetricError, match=r"outputs of shape \(4, 3, 6, 6\)"):
        measure(module, *images(4))


def test_a_network_with_nothing_to_train_is_an_error() -> None:
    module = seeded(mlp).requires_grad_(False)
    with pytest.raises(MetricError, match="no trainable parameter"):
        measure(module, *flat_inputs())


def test_two_models_are_an_error() -> None:
    module, (inputs, labels) = seeded(mlp), flat_inputs()
    with pytest.raises(MetricError, match="one model, got 2"):
        compute([module, module], dataset(inputs, labels), generator(0))
