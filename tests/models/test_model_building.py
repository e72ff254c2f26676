"""Building from a seed."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from phasegrid import registry
from phasegrid.declare import Model
from phasegrid.errors import SweepError
from phasegrid.jobs import Part
from phasegrid.models import MODELS, MlpArgs
from phasegrid.models.build import build_model

RESNET = Part("resnet18", 1, {"width": 2})


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    one = build_model(RESNET, (3, 8, 8), 10, seed=5).state_dict()
    torch.rand(3)
    two = build_model(RESNET, (3, 8, 8), 10, seed=5).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_seed_gives_other_weights() -> None:
    one, two = (build_model(RESNET, (3, 8, 8), 10, seed=seed).state_dict() for seed in (5, 6))
    assert not torch.equal(one["conv1.weight"], two["conv1.weight"])


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    build_model(RESNET, (3, 8, 8), 10, seed=2**62 + 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_float32_on_the_cpu() -> None:
    model = build_model(RESNET, (3, 8, 8), 10, seed=0)
    assert {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.float32, "cpu")}


def test_weights_have_the_default_initialisation_of_pytorch() -> None:
    """Uniform within 1/sqrt(fan_in), of variance 1/(3 fan_in); BatchNorm starts at scale 1 and
    shift 0.
    """
    model = build_model(Part("resnet18", 1, {"width": 16}), (3, 32, 32), 10, seed=0)
    weight = model.get_parameter("stage4.block1.conv2.weight")
    fan_in = 128 * 9
    assert weight.abs().max().item() <= 1 / math.sqrt(fan_in)
    # 147,456 draws: the variance has a standard error of 0.2%
    assert weight.var().item() == pytest.approx(1 / (3 * fan_in), rel=0.02)
    assert torch.equal(model.get_parameter("norm1.weight"), torch.ones(16))


def declare(monkeypatch: pytest.MonkeyPatch, make: Any) -> Part:
    monkeypatch.setitem(MODELS, "mine", Model(MlpArgs, make))
    return Part("mine", 1, {"width": 4}, {"root": "here"})


def test_a_family_gets_shape_classes_and_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def make(input_shape: tuple[int, ...], num_classes: int, **args: object) -> nn.Module:
        seen.append((input_shape, num_classes, args))
        return nn.Identity()

    part = declare(monkeypatch, make)
    build_model(part, (3, 4), 7, seed=0)
    assert seen == [((3, 4), 7, {"width": 4, "root": "here"})]


def test_a_name_that_is_not_built_in_is_a_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(MlpArgs, lambda shape, classes, width: nn.Linear(shape[0] * width, classes))
    plugins = {("model", "lab.py:NET"): model}
    monkeypatch.setattr(registry, "resolve", lambda kind, name, _: plugins[kind, name])
    built = build_model(Part("lab.py:NET", 1, {"width": 2}), (3,), 5, seed=0)
    assert built.get_parameter("weight").shape == (5, 6)


def test_a_family_must_return_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    part = declare(monkeypatch, lambda *_, **__: "net")
    with pytest.raises(SweepError, match=r"its make function returned str; it must return a torch"):
        build_model(part, (3, 4), 7, seed=0)


class _Projected(nn.Module):
    """A network that keeps a tensor that its weights do not show: a buffer that is not persistent,
    or a plain attribute.
    """

    def __init__(self, hidden: torch.Tensor, how: str) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        if how == "attribute":
            self.inner.projection = hidden  # type: ignore[assignment]
        else:
            self.inner.register_buffer("projection", hidden, persistent=how == "persistent")


@pytest.mark.parametrize("how", ["buffer", "attribute"])
def test_what_is_drawn_and_not_among_the_weights_is_refused(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    part = declare(monkeypatch, lambda *_, **__: _Projected(torch.randn(4, 4), how))
    message = (
        r"building model mine: 'inner\.projection' is drawn at random, but is not in"
        r" state_dict\(\); .* "
        r"register_buffer\(name, tensor\)"
    )
    with pytest.raises(SweepError, match=message):
        build_model(part, (4,), 3, seed=2**63 - 1)


def test_what_is_drawn_in_other_sizes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([2, 3])
    part = declare(monkeypatch, lambda *_, **__: _Projected(torch.ones(next(sizes)), "buffer"))
    with pytest.raises(SweepError, match=r"'inner\.projection' is drawn at random"):
        build_model(part, (4,), 3, seed=0)


@pytest.mark.parametrize("how", ["buffer", "attribute"])
def test_constant_tables_need_not_be_stored(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    part = declare(monkeypatch, lambda *_, **__: _Projected(torch.arange(4.0), how))
    one = build_model(part, (4,), 3, seed=0)
    again = build_model(part, (4,), 3, seed=0)
    assert torch.equal(one.get_parameter("inner.weight"), again.get_parameter("inner.weight"))


def test_persistent_buffers_may_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    part = declare(monkeypatch, lambda *_, **__: _Projected(torch.randn(4, 4), "persistent"))
    assert "inner.projection" in build_model(part, (4,), 3, seed=0).state_dict()
