"""The built-in networks: published parameter counts, closed-form FLOPs, shapes, and torch.func."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, pad
from torch.utils.flop_counter import FlopCounterMode

from phasegrid.declare import DatasetFacts, import_function, make_part
from phasegrid.errors import DataError, SweepError
from phasegrid.estimates import ModelCounts
from phasegrid.jobs import Part
from phasegrid.models import MODELS
from phasegrid.models.build import build_model
from phasegrid.models.counting import count_work
from phasegrid.registry import resolve


def part(name: str, **args: Any) -> Part:
    kind = MODELS[name].args
    return make_part(name, 1, kind, asdict(kind(**args)))


def on_meta(part: Part, shape: tuple[int, ...], classes: int) -> nn.Module:
    with torch.device("meta"):
        module = import_function(MODELS[part.name].make)(shape, classes, **part.args)
    assert isinstance(module, nn.Module)
    return module


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("width", [1, 2, 64])
def test_resnet18_has_the_published_number_of_parameters(width: int) -> None:
    for classes, linear, constant in ((10, 257, 10), (100, 977, 100)):
        found = num_parameters(on_meta(part("resnet18", width=width), (3, 32, 32), classes))
        assert found == 2724 * width**2 + linear * width + constant


def test_resnet18_of_width_64_is_the_usual_one() -> None:
    assert num_parameters(on_meta(part("resnet18"), (3, 32, 32), 10)) == 11_173_962


@pytest.mark.parametrize("width", [1, 2, 64])
@pytest.mark.parametrize(("batch_norm", "linear"), [(True, 236), (False, 150)])
def test_vgg11_has_the_known_number_of_parameters(
    width: int, batch_norm: bool, linear: int
) -> None:
    module = on_meta(part("vgg11", width=width, batch_norm=batch_norm), (3, 32, 32), 10)
    assert num_parameters(module) == 2250 * width**2 + linear * width + 10


def test_two_spirals_mlp_has_the_parameters_of_its_notebook() -> None:
    """Benton et al. 2021: 2-25x7-1 has 4,001; a second output adds 26."""
    for outputs, parameters in (("one_logit", 4_001), ("classes", 4_001 + 26)):
        mlp = part("mlp", width=25, depth=7, outputs=outputs)
        assert num_parameters(on_meta(mlp, (2,), 2)) == parameters


def test_the_cross_entropy_of_one_logit_is_the_binary_one() -> None:
    """That of torch, in value and gradient."""
    net = build_model(part("mlp", width=5, outputs="one_logit"), (2,), 2, seed=3).double()
    inputs = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    logit = nn.Sequential(*list(net.children())[:-1])(inputs)[:, 0]
    ours = cross_entropy(net(inputs), labels)
    theirs = binary_cross_entropy_with_logits(logit, labels.double())
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)
    found, expected = (torch.autograd.grad(x, net.parameters()) for x in (ours, theirs))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


def test_lenet5_pads_small_images_by_two_pixels() -> None:
    net = build_model(part("lenet5"), (1, 28, 28), 10, seed=0).double()
    full = build_model(part("lenet5"), (1, 32, 32), 10, seed=0).double()
    image = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(net(image), full(pad(image, (2, 2, 2, 2))))


def test_xavier_draws_every_layer_of_vgg16_uniformly() -> None:
    net = build_model(part("vgg16", width=16, init="xavier"), (3, 32, 32), 10, seed=0)
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 16
    for layer in layers:
        assert layer.bias is not None
        assert not layer.bias.any()
        out, fan_in = layer.weight.shape[0], layer.weight[0].numel()
        fan_out = out * (layer.weight[0][0].numel() if layer.weight.dim() == 4 else 1)
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert bound * 0.98 < layer.weight.abs().max().item() <= bound


PUBLISHED = [
    ("lenet5", {}, 62_006, None),
    ("vgg16", {}, 15_245_130, 15_291_300),
    ("vgg16", {"batch_norm": True}, 15_253_578, 15_299_748),
    ("preresnet", {"depth": 110}, 1_146_842, 1_169_972),
    ("preresnet", {"depth": 164}, 1_703_258, 1_726_388),
    ("wide_resnet", {}, 36_489_290, 36_546_980),
    ("mlp", {"width": 128, "depth": 1}, 394_634, None),
    ("resnet_cifar", {"depth": 20}, 272_474, None),
    ("resnet_cifar", {"depth": 32}, 466_906, 472_756),
    ("resnet_cifar", {"depth": 56}, 855_770, 861_620),
    ("resnet_cifar", {"depth": 110}, 1_730_714, 1_736_564),
    ("resnet_cifar", {"depth": 32, "shortcut": "none"}, 464_154, 470_004),
    ("resnet_cifar", {"depth": 56, "shortcut": "pad"}, 853_018, 858_868),
    ("resnet_cifar", {"depth": 110, "shortcut": "none"}, 1_727_962, 1_733_812),
    ("conv3fc3", {"width": 300}, 697_834, None),
    ("conv3fc3", {"width": 500}, 1_090_634, None),
    ("conv3fc3", {"width": 800}, 1_829_834, None),
    ("conv3fc3", {"width": 1000}, 2_422_634, None),
]
"""Networks of Garipov et al. 2018, Benton et al. 2021, Xu et al. 2024 and the published code of the
sharp modes, with their parameters for 10 and for 100 classes.
"""


@pytest.mark.parametrize(("name", "args", "ten", "hundred"), PUBLISHED)
def test_networks_have_the_published_numbers_of_parameters(
    name: str, args: dict[str, Any], ten: int, hundred: int | None
) -> None:
    for classes, parameters in ((10, ten), (100, hundred)):
        if parameters is not None:
            module = on_meta(part(name, **args), (3, 32, 32), classes)
            assert num_parameters(module) == parameters


def test_resnet158_has_the_parameters_counted_by_hand() -> None:
    module = on_meta(part("preresnet", depth=158, block="basic"), (3, 32, 32), 10)
    counted, before = 3 * 16 * 9, 16
    for channels in (16, 32, 64):
        counted += (before + channels) * channels * 9 + before * channels + 2 * (before + channels)
        counted += 25 * (2 * channels**2 * 9 + 4 * channels)
        before = channels
    assert num_parameters(module) == counted + 2 * 64 + 64 * 10 + 10 == 2_508_506
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    assert len([m for m in convolutions if m.kernel_size == (3, 3)]) + len(linear) == 158


FORMS: list[tuple[Part, tuple[int, ...], int]] = [
    (part("mlp"), (1, 8, 8), 10),
    (part("mlp", width=25, depth=7, activation="tanh"), (2,), 2),
    (part("mlp", width=3, depth=1, activation="gelu"), (3, 32, 32), 100),
    (part("mlp", width=25, depth=7, outputs="one_logit"), (2,), 2),
    (part("lenet5"), (3, 32, 32), 10),
    (part("lenet5"), (1, 28, 28), 5),
    (part("vit"), (3, 32, 32), 10),
    (part("vit", patch=3, width=12, depth=2, heads=3, feed_forward=2), (3, 15, 15), 4),
    (part("small_cnn"), (1, 8, 8), 10),
    (part("small_cnn", width=5, batch_norm=True), (3, 30, 33), 7),
    (part("resnet18", width=4), (3, 32, 32), 10),
    (part("resnet18", width=3), (1, 8, 8), 10),
    (part("resnet18", width=2), (1, 28, 31), 100),
    (part("vgg11", width=2), (3, 32, 32), 10),
    (part("vgg11", width=3, batch_norm=False), (1, 65, 40), 100),
    (part("vgg16", width=2), (3, 32, 32), 10),
    (part("vgg16", width=3, batch_norm=True, dropout=0.0), (1, 65, 40), 100),
    (part("conv3fc3", width=7), (3, 32, 32), 10),
    (part("conv3fc3", width=5), (1, 15, 28), 3),
    (part("preresnet", depth=20, width=2), (3, 32, 32), 10),
    (part("preresnet", depth=11, width=3), (1, 9, 14), 4),
    (part("preresnet", depth=14, width=2, block="basic"), (3, 17, 32), 10),
    (part("resnet_cifar", depth=20, width=3), (3, 32, 32), 10),
    (part("resnet_cifar", depth=8, width=2, shortcut="pad"), (1, 9, 14), 4),
    (part("resnet_cifar", depth=14, width=2, shortcut="none"), (3, 17, 32), 10),
    (part("wide_resnet", depth=16, width=1), (3, 15, 32), 10),
    (part("wide_resnet", depth=10, width=2), (1, 8, 8), 5),
]


@pytest.mark.parametrize(("part", "shape", "classes"), FORMS)
def test_counts_in_closed_form_are_those_of_the_built_network(
    part: Part, shape: tuple[int, ...], classes: int
) -> None:
    module = on_meta(part, shape, classes).eval()
    with FlopCounterMode(display=False) as counter:
        logits = module(torch.empty(1, *shape, device="meta"))
    assert logits.shape == (1, classes)
    expected = (num_parameters(module), counter.get_total_flops())
    counts = count_work(part, DatasetFacts(10, 10, shape, classes))
    assert counts is not None
    assert counts[:2] == expected


def kept_numbers(module: nn.Module, inputs: Tensor) -> int:
    """Count what autograd keeps for a backward pass, weights and inputs left out; each storage
    once.
    """
    own = {
        p.untyped_storage().data_ptr() for p in [*module.parameters(), *module.buffers(), inputs]
    }
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        place = value.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = value.untyped_storage().nbytes() // value.element_size()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        logits = module.train()(inputs)
        cross_entropy(logits, torch.zeros(len(inputs), dtype=torch.int64))
    return sum(kept.values())


@pytest.mark.parametrize(("part", "shape", "classes"), FORMS)
def test_activations_are_about_those_that_autograd_keeps(
    part: Part, shape: tuple[int, ...], classes: int
) -> None:
    counts = count_work(part, DatasetFacts(10, 10, shape, classes))
    assert counts is not None
    inputs = torch.ones(8, *shape)
    found = kept_numbers(build_model(part, shape, classes, seed=0), inputs) / 8
    assert 0.4 < counts.activations / found < 1.7  # for memory: pooling and logits are left out


PLUG_INS = """
from dataclasses import dataclass
from phasegrid.declare import Model
from phasegrid.estimates import ModelCounts

@dataclass(frozen=True)
class Args:
    width: int = 3

def count(facts, *, width):
    return ModelCounts(width * facts.num_classes, 2, 3)

def odd(args):
    return ("width", "found 4; allowed: odd widths") if args["width"] % 2 == 0 else None

QUIET = Model(Args, print)
WRONG = Model(Args, print, count=lambda facts, width: width)
FAILS = Model(Args, print, count=lambda facts, width: width / 0)
COUNTED = Model(Args, print, count=count, smallest_image=16, rules=(odd,))
"""


def test_a_users_family_has_the_counts_smallest_image_and_rules_that_it_declares(
    tmp_path: Path,
) -> None:
    (tmp_path / "nets.py").write_text(PLUG_INS)
    for name in ("QUIET", "COUNTED", "WRONG", "FAILS"):
        resolve("model", f"nets.py:{name}", tmp_path)
    large, small = (DatasetFacts(10, 10, (3, size, size), 10) for size in (32, 8))
    mine = Part("nets.py:COUNTED", 1, {"width": 3})
    assert count_work(Part("nets.py:QUIET", 1, {"width": 3}), large) is None
    assert count_work(mine, large) == ModelCounts(30, 2, 3)
    with pytest.raises(DataError, match=r"takes images .* of at least 16x16 pixels"):
        count_work(mine, small)
    with pytest.raises(DataError, match=r"building model nets.py:COUNTED: found 4; allowed: odd"):
        count_work(replace(mine, args={"width": 4}), large)
    with pytest.raises(SweepError, match=r"nets.py:WRONG: its count returned 3; allowed: ModelC"):
        count_work(replace(mine, name="nets.py:WRONG"), large)
    with pytest.raises(SweepError, match=r"nets.py:FAILS: its count raises ZeroDivisionError"):
        count_work(replace(mine, name="nets.py:FAILS"), large)


@pytest.mark.parametrize(
    ("name", "shape", "smallest"),
    [
        ("vgg11", (1, 28, 28), "32x32"),
        ("vgg11", (3, 32, 31), "32x32"),
        ("small_cnn", (1, 3, 8), "4x4"),
        ("resnet18", (2,), "1x1"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_planning_and_in_building(
    name: str, shape: tuple[int, ...], smallest: str
) -> None:
    message = rf"building model {name}: one input has the shape .* of at least {smallest} pixels"
    with pytest.raises(DataError, match=message):
        count_work(part(name), DatasetFacts(10, 10, shape, 10))
    with pytest.raises(DataError, match=message):
        build_model(part(name), shape, 10, seed=0)


@pytest.mark.parametrize(
    ("model", "shape", "classes", "message"),
    [
        (part("lenet5"), (3, 40, 40), 10, "found images of 40x40; allowed: of 28x28 or 32x32"),
        (part("vit"), (3, 30, 30), 10, "found patches of 4x4 pixels for images of 30x30; allowed"),
        (part("mlp", outputs="one_logit"), (2,), 3, "found one_logit for 3 classes; allowed: for"),
    ],
)
def test_arguments_that_do_not_fit_the_data_are_refused_in_planning_and_in_building(
    model: Part, shape: tuple[int, ...], classes: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        count_work(model, DatasetFacts(10, 10, shape, classes))
    with pytest.raises(DataError, match=message):
        build_model(model, shape, classes, seed=0)


SMALL: list[tuple[Part, tuple[int, ...]]] = [
    (part("mlp", width=4), (1, 4, 4)),
    (part("small_cnn", width=2), (1, 8, 8)),
    (part("small_cnn", width=2, batch_norm=True), (1, 8, 8)),
    (part("resnet18", width=1), (1, 8, 8)),
    (part("resnet_cifar", depth=8, width=1, shortcut="pad"), (1, 8, 8)),
    (part("vgg11", width=1), (3, 32, 32)),
    (part("lenet5"), (1, 28, 28)),
    (part("vit", width=8, depth=1, heads=2), (3, 8, 8)),
]


@pytest.mark.parametrize(("part", "shape"), SMALL[:-1])  # the last one uses a kernel of no batches
def test_stacked_models_give_under_vmap_what_each_gives_alone(
    part: Part, shape: tuple[int, ...]
) -> None:
    models = [build_model(part, shape, 3, seed).double().eval() for seed in (0, 1)]
    inputs = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)).double()
    parameters, buffers = stack_module_state(models)

    def call(p: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = functional_call(models[0], (p, b), (inputs,))
        assert isinstance(logits, torch.Tensor)
        return logits

    stacked = vmap(call)(parameters, buffers)
    alone = torch.stack([model(inputs) for model in models])
    # float64; a batched kernel may sum in another order
    torch.testing.assert_close(stacked, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("part", "shape"), SMALL)
def test_examples_do_not_touch_each_other_in_eval_mode(part: Part, shape: tuple[int, ...]) -> None:
    model = build_model(part, shape, 3, seed=0).double().eval()
    inputs = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)).double()
    alone = torch.cat([model(example[None]) for example in inputs])
    torch.testing.assert_close(model(inputs), alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("part", "shape"), SMALL)
def test_no_layer_works_in_place(part: Part, shape: tuple[int, ...]) -> None:
    """Hooks, torch.func and second derivatives all need the values that went in."""
    model = build_model(part, shape, 3, seed=0)
    assert len(list(model.modules())) > 3
    assert not any(getattr(module, "inplace", False) for module in model.modules())


@pytest.mark.parametrize(
    ("part", "shape", "layer"),
    [
        (part("mlp", width=4), (2,), "linear2"),
        (part("small_cnn", width=2), (1, 8, 8), "conv2"),
        (part("resnet18", width=1), (1, 8, 8), "stage1.block0.conv1"),
        (part("resnet18", width=1), (1, 8, 8), "stage4.block1.relu2"),
        (part("vgg11", width=1), (3, 32, 32), "norm8"),
    ],
)
def test_layers_have_the_names_that_are_documented(
    part: Part, shape: tuple[int, ...], layer: str
) -> None:
    names = dict(on_meta(part, shape, 3).named_modules())
    assert layer in names
    assert "classifier" in names


def test_a_resnet_block_adds_its_input() -> None:
    """With the last scale of every block at zero, an identity block passes on what is positive."""
    model = build_model(part("resnet18", width=2), (3, 8, 8), 3, seed=0).eval()
    block = model.get_submodule("stage1.block0")
    torch.nn.init.zeros_(block.get_parameter("norm2.weight"))
    inputs = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(inputs), inputs.relu())


@pytest.mark.parametrize("shortcut", ["pad", "none"])
def test_a_block_adds_what_its_shortcut_passes_on(shortcut: str) -> None:
    """With the last scale at zero: every second pixel and zeros in new channels, or nothing."""
    model = build_model(part("resnet_cifar", depth=8, width=2, shortcut=shortcut), (3, 8, 8), 3, 0)
    inputs = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0)).relu()
    expected = torch.zeros(2, 4, 4, 4)
    if shortcut == "pad":
        expected[:, :2] = inputs[:, :, ::2, ::2]
    block = model.eval().get_submodule("stage2.block0")
    torch.nn.init.zeros_(block.get_parameter("norm2.weight"))
    assert torch.equal(block(inputs), expected)


def test_a_depth_that_is_no_whole_number_of_blocks_is_refused() -> None:
    message = r"building model resnet_cifar: found 33; allowed: 6n \+ 2"
    with pytest.raises(DataError, match=message):
        build_model(part("resnet_cifar", depth=33), (3, 32, 32), 10, seed=0)
