"""The trace: exact against dense Hessians for piecewise-linear networks, an honest estimate
elsewhere.
"""

from collections.abc import Callable

import pytest
import torch
from oracles import dense_ggn, dense_hessian
from point_support import Residual, cnn, generator, images, mlp, seeded
from torch import Tensor, nn

from phasegrid.metrics.hessian.basis import rademacher
from phasegrid.metrics.hessian.lanczos import lanczos
from phasegrid.metrics.hessian.piecewise import is_piecewise_linear
from phasegrid.metrics.hessian.trace import deflated_hutchinson, ggn_trace
from phasegrid.tasks.losses import softmax_columns

CPU = torch.device("cpu")


def flat_inputs(num: int = 9) -> tuple[Tensor, Tensor]:
    rng = generator(3)
    return (
        torch.randn(num, 4, generator=rng, dtype=torch.float64),
        torch.randint(0, 3, (num,), generator=rng),
    )


NETWORKS = {
    "mlp": (lambda: seeded(mlp), flat_inputs),
    "cnn": (lambda: seeded(cnn), lambda: images(7)),
    "residual": (lambda: seeded(Residual), lambda: images(6)),
    "one_layer": (lambda: seeded(lambda: nn.Sequential(nn.Linear(4, 3))), flat_inputs),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_exact_trace_is_that_of_the_dense_hessian(name: str) -> None:
    make, draw = NETWORKS[name]
    module, (inputs, labels) = make(), draw()
    assert is_piecewise_linear(module)
    H = dense_hessian(module, inputs, labels)
    trace = sum(ggn_trace(module, inputs).values())
    assert trace == pytest.approx(float(H.trace()), rel=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_exact_trace_in_float32_is_exact_to_1e_5(name: str) -> None:
    make, draw = NETWORKS[name]
    module, (inputs, _) = make(), draw()
    exact = sum(ggn_trace(module, inputs).values())
    assert sum(ggn_trace(module.float(), inputs.float()).values()) == pytest.approx(exact, rel=1e-5)


def test_every_parameter_tensor_has_its_own_share() -> None:
    module, (inputs, _) = seeded(cnn), images(5)
    module[0].bias.requires_grad_(False)
    G = dense_ggn(module, inputs).diagonal()
    traces, start = ggn_trace(module, inputs), 0
    trainable = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    assert sorted(traces) == sorted(name for name, _ in trainable)
    for name, p in trainable:
        share = float(G[start : start + p.numel()].sum())
        assert traces[name] == pytest.approx(share, rel=1e-11, abs=1e-14), name
        start += p.numel()


def test_chunks_of_examples_do_not_change_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    module, (inputs, _) = seeded(Residual), images(7)
    whole = ggn_trace(module, inputs)
    monkeypatch.setattr("phasegrid.metrics.hessian.operator.CPU_GRAPH_BYTES", 2**18)
    assert ggn_trace(module, inputs) == pytest.approx(whole, rel=1e-12)


def test_the_trace_leaves_the_module_alone() -> None:
    module, (inputs, _) = seeded(Residual), images(4)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    ggn_trace(module, inputs)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert not module.conv1._forward_hooks


def test_confident_networks_keep_their_trace_in_float32() -> None:
    # 1 - p is 1e-20 here: a float32 softmax would leave nothing of it.
    module, (inputs, labels) = seeded(mlp), flat_inputs()
    module[4].bias.data = torch.tensor([46.0, 0.0, 0.0], dtype=torch.float64)
    exact = float(dense_hessian(module, inputs, torch.zeros_like(labels)).trace())
    assert 0 < exact < 1e-15
    trace = sum(ggn_trace(module.float(), inputs.float()).values())
    assert trace == pytest.approx(exact, rel=1e-4)  # a relative 1e-7 of logits near 46


def test_softmax_columns_factor_the_hessian_of_the_cross_entropy() -> None:
    logits = 3 * torch.randn(5, 4, generator=generator(0), dtype=torch.float64)
    logits[0, 2] = 900.0  # all other probabilities underflow
    sizes, columns = softmax_columns(logits)
    p = logits.softmax(1)
    expected = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    found = torch.einsum("nk,nki,nkj->nij", sizes, columns, columns)
    torch.testing.assert_close(found, expected, atol=1e-15, rtol=1e-12)


def test_the_gauss_newton_trace_is_not_that_of_a_smooth_network() -> None:
    module, (inputs, labels) = seeded(lambda: mlp(nn.Tanh)), flat_inputs()
    H, G = dense_hessian(module, inputs, labels), dense_ggn(module, inputs)
    assert abs(float(G.trace() / H.trace()) - 1) > 0.01
    assert not is_piecewise_linear(module)


class _Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * self.b(x)


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(x)))


class _Loose(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale


class _Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if bool(x.sum() > 0) else -self.layer(x)


def _tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    return module


def _hooked() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4))
    module[0].register_forward_hook(lambda _layer, _args, out: out**2)
    return module


def _training() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()


@pytest.mark.parametrize(
    "make",
    [
        _Gated, _Twice, _Loose, _Branching, _tied, _hooked, _training,
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
        lambda: nn.Sequential(nn.Dropout(), nn.Linear(4, 4)).train(),
        lambda: nn.Conv2d(2, 2, 3, padding_mode="circular"),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU()),
        lambda: nn.BatchNorm1d(4, track_running_stats=False).eval(),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Flatten(0)),
    ],
)  # fmt: skip
def test_what_is_not_known_to_be_piecewise_linear_is_refused(make: type[nn.Module]) -> None:
    assert not is_piecewise_linear(make())


class _Step(nn.Module):
    """Linear layers around a step of an example's features, or of several examples together."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.step = nn.Linear(4, 4), nn.Linear(4, 3), step

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.step(self.a(x))))


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "centred": lambda h: h - h.mean(0, keepdim=True),  # Salimans and Kingma 2016
    "centred by name": lambda h: h - torch.mean(h, dim=0),
    "centred from the end": lambda h: h - h.mean(-2, keepdim=True),
    "centred in all": lambda h: h - h.mean(),
    "centred in none": lambda h: h - h.mean(()),
    "centred in both": lambda h: h - h.mean((0, 1)),
    "less the first": lambda h: h - h[0],
    "less the first of a slice": lambda h: h - h[:1],
    "doubled": lambda h: torch.cat([h, h])[: h.shape[0]],
    "in one row": lambda h: h - torch.flatten(h)[:4],
    "in one row by method": lambda h: h - h.flatten().mean(-1),
    "one row": lambda h: h - h.reshape(1, -1)[:, :4],
    "turned": lambda h: h - h.T.mean(1),
}
APART: dict[str, Callable[[Tensor], Tensor]] = {
    "centred": lambda h: h - h.mean(1, keepdim=True),
    "centred from the end": lambda h: h - h.mean(-1, keepdim=True),
    "centred by name": lambda h: h - torch.mean(h, dim=[1], keepdim=True),
    "cut": lambda h: torch.cat([h[:, :2], h[..., 2:]], dim=1),
    "in and out of a map": lambda h: torch.flatten(h.view(h.size(0), 2, 2), start_dim=1),
    "by its shape": lambda h: h.reshape((h.shape[0], -1)),
    "in rows": lambda h: h.view(-1, 4).flatten(1),
}


@pytest.mark.parametrize("name", MIXING)
def test_networks_that_mix_examples_have_no_exact_trace(name: str) -> None:
    module = seeded(lambda: _Step(MIXING[name]))
    assert module(flat_inputs()[0]).shape == (9, 3)
    assert not is_piecewise_linear(module)


def test_what_mixes_examples_has_another_trace_than_the_formula() -> None:
    module, (inputs, labels) = seeded(lambda: _Step(MIXING["centred"])), flat_inputs()
    true = float(dense_hessian(module, inputs, labels).trace())
    assert abs(sum(ggn_trace(module, inputs).values()) / true - 1) > 0.01


@pytest.mark.parametrize("name", APART)
def test_steps_within_an_example_keep_the_exact_trace(name: str) -> None:
    module, (inputs, labels) = seeded(lambda: _Step(APART[name])), flat_inputs()
    assert is_piecewise_linear(module)
    true = float(dense_hessian(module, inputs, labels).trace())
    assert sum(ggn_trace(module, inputs).values()) == pytest.approx(true, rel=1e-12)


def test_the_built_in_families_are_piecewise_linear_but_for_smooth_activations() -> None:
    from phasegrid.models import mlp as mlps
    from phasegrid.models import resnet, small_cnn, vgg

    assert is_piecewise_linear(resnet.make((3, 8, 8), 10, width=1).eval())
    assert not is_piecewise_linear(resnet.make((3, 8, 8), 10, width=1).train())
    assert is_piecewise_linear(small_cnn.make((3, 8, 8), 10, width=1, batch_norm=True).eval())
    assert is_piecewise_linear(vgg.make((3, 32, 32), 10, width=1, batch_norm=False))
    assert is_piecewise_linear(mlps.make((8,), 10, width=4, depth=2, activation="relu"))
    assert not is_piecewise_linear(mlps.make((8,), 10, width=4, depth=2, activation="tanh"))


def indefinite(size: int) -> Tensor:
    values = torch.linspace(-0.5, 1, size, dtype=torch.float64)
    values[-3:] = torch.tensor([10.0, 30.0, 80.0])
    Q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator(0), dtype=torch.float64))
    return Q @ torch.diag(values) @ Q.t()


def test_the_estimate_is_unbiased_and_its_standard_error_honest() -> None:
    H = indefinite(60)
    start = rademacher(60, generator(1), torch.float64, CPU)
    spectrum = lanczos(lambda v: H @ v, start, 8, generator(2))
    trace = float(H.trace())
    found = [deflated_hutchinson(lambda v: H @ v, spectrum, 10, generator(s)) for s in range(200)]
    errors = torch.tensor([f.trace - trace for f in found], dtype=torch.float64)
    stderrs = torch.tensor([f.stderr for f in found], dtype=torch.float64)
    spread = float(errors.std())
    assert abs(float(errors.mean())) < 4 * spread / 200**0.5
    # The standard error of 10 probes is itself known to 1/sqrt(18) = 24%; its root mean square over
    # 200 runs to 2%.
    assert float(stderrs.square().mean().sqrt()) == pytest.approx(spread, rel=0.15)
    assert {f.method for f in found} == {"hutchinson_deflated"}


def test_deflation_takes_the_outliers_out_of_the_variance() -> None:
    H = indefinite(60)
    spectrum = lanczos(
        lambda v: H @ v, rademacher(60, generator(1), torch.float64, CPU), 8, generator(2)
    )
    deflated = deflated_hutchinson(lambda v: H @ v, spectrum, 50, generator(3)).stderr
    draws = torch.stack([rademacher(60, generator(s), torch.float64, CPU) for s in range(50)])
    plain = float(((draws @ H) * draws).sum(1).std()) / 50**0.5
    assert deflated < plain / 5


def test_a_complete_run_gives_the_trace_without_probes() -> None:
    H = indefinite(20)
    spectrum = lanczos(
        lambda v: H @ v, rademacher(20, generator(1), torch.float64, CPU), 30, generator(2)
    )

    def refuse(_v: Tensor) -> Tensor:
        raise AssertionError("no product is needed")

    found = deflated_hutchinson(refuse, spectrum, 10, generator(3))
    assert found.method == "exact_spectrum"
    assert found.stderr == 0
    assert found.trace == pytest.approx(float(H.trace()), rel=1e-12)
