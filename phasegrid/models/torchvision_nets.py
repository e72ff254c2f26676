"""Networks of torchvision for images, by their names there; of their counts, a table, without
torch.

All have one classifier, end in logits (N, classes), and take images (3, H, W) of any size from 32 x
32 pixels; vision transformers take square ones that their patches cut. Not here: networks with
further outputs while they train (GoogLeNet, Inception).
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from phasegrid.declare import DatasetFacts, Finding
from phasegrid.estimates import ModelCounts
from phasegrid.models.vit import Sizes, count_sizes, patches_fit

if TYPE_CHECKING:
    from torch import nn

CLASSES = 1000
"""Of ImageNet, for which the table counts."""

SIDE = 224
"""Height and width of an image for which the table counts."""


@dataclass(frozen=True, slots=True)
class TorchvisionNet:
    """Counts of a network for `CLASSES` classes and images of `SIDE` x `SIDE` pixels: parameters,
    inputs of the classifier, FLOPs that grow with the number of pixels and those that do not,
    numbers kept for the backward pass, and layers (as in `phasegrid.estimates.ModelCounts`).
    """

    num_parameters: int
    features: int
    pixel_flops: int
    fixed_flops: int
    activations: int
    layers: int


NETS: Mapping[str, TorchvisionNet] = {
    "resnet18": TorchvisionNet(11_689_512, 512, 3_627_122_688, 1_024_000, 4_666_880, 41),
    "resnet34": TorchvisionNet(21_797_672, 512, 7_326_498_816, 1_024_000, 7_175_680, 73),
    "resnet50": TorchvisionNet(25_557_032, 2048, 8_174_272_512, 4_096_000, 21_778_432, 107),
    "resnet101": TorchvisionNet(44_549_160, 2048, 15_598_714_880, 4_096_000, 32_014_336, 209),
    "resnet152": TorchvisionNet(60_192_808, 2048, 23_023_157_248, 4_096_000, 44_658_688, 311),
    "resnext50_32x4d": TorchvisionNet(25_028_904, 2048, 8_456_863_744, 4_096_000, 28_351_488, 107),
    "resnext101_32x8d": TorchvisionNet(
        88_791_336, 2048, 32_823_934_976, 4_096_000, 61_969_408, 209
    ),
    "resnext101_64x4d": TorchvisionNet(
        83_455_272, 2048, 30_916_444_160, 4_096_000, 61_969_408, 209
    ),
    "wide_resnet50_2": TorchvisionNet(68_883_240, 2048, 22_791_946_240, 4_096_000, 28_351_488, 107),
    "wide_resnet101_2": TorchvisionNet(
        126_886_696, 2048, 45_502_005_248, 4_096_000, 41_999_360, 209
    ),
    "vgg11": TorchvisionNet(132_863_336, 4096, 14_970_912_768, 247_267_328, 2_993_664, 11),
    "vgg11_bn": TorchvisionNet(132_868_840, 4096, 14_970_912_768, 247_267_328, 10_419_712, 19),
    "vgg13": TorchvisionNet(133_047_848, 4096, 22_369_665_024, 247_267_328, 7_810_560, 13),
    "vgg13_bn": TorchvisionNet(133_053_736, 4096, 22_369_665_024, 247_267_328, 20_053_504, 23),
    "vgg16": TorchvisionNet(138_357_544, 4096, 30_693_261_312, 247_267_328, 9_115_136, 16),
    "vgg16_bn": TorchvisionNet(138_365_992, 4096, 30_693_261_312, 247_267_328, 22_662_656, 29),
    "vgg19": TorchvisionNet(143_667_240, 4096, 39_016_857_600, 247_267_328, 10_419_712, 19),
    "vgg19_bn": TorchvisionNet(143_678_248, 4096, 39_016_857_600, 247_267_328, 25_271_808, 35),
    "mobilenet_v2": TorchvisionNet(3_504_872, 1280, 598_988_544, 2_560_000, 13_445_312, 105),
    "mobilenet_v3_small": TorchvisionNet(2_542_856, 1024, 108_875_648, 4_145_152, 2_952_328, 88),
    "mobilenet_v3_large": TorchvisionNet(5_483_032, 1280, 425_147_520, 8_032_000, 8_910_424, 110),
    "efficientnet_b0": TorchvisionNet(5_288_548, 1280, 767_815_104, 3_814_400, 13_573_820, 131),
}


VITS: Mapping[str, Sizes] = {
    "vit_b_16": Sizes(16, 12, 12, 768, 3072),
    "vit_b_32": Sizes(32, 12, 12, 768, 3072),
    "vit_l_16": Sizes(16, 24, 16, 1024, 4096),
    "vit_l_32": Sizes(32, 24, 16, 1024, 4096),
}


def count(facts: DatasetFacts, *, arch: str, resize: int | None = None, **_: object) -> ModelCounts:
    """Count a network: exact for parameters, and for FLOPs where height and width are multiples of
    32. Of the nets of the table, activations are the inputs of layers with weights, not exact at
    other sizes than 224.
    """
    if resize is not None:
        counts = count(replace(facts, input_shape=(3, resize, resize)), arch=arch)
        return counts._replace(activations=counts.activations + 3 * resize**2)
    if arch in VITS:
        return count_sizes(facts, VITS[arch])
    net, share = NETS[arch], facts.input_shape[1] * facts.input_shape[2] / SIDE**2
    fewer = CLASSES - facts.num_classes
    return ModelCounts(
        net.num_parameters - fewer * (net.features + 1),
        round(net.pixel_flops * share) + net.fixed_flops - 2 * fewer * net.features,
        round(net.activations * share),
        net.layers,
    )


def make(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    arch: str,
    resize: int | None = None,
    **_: object,
) -> "nn.Module":
    """Make a network with the initialisation of torchvision; names of layers are torchvision's.

    With `resize` it is ``network`` after ``resize``, which scales images to so many pixels
    (bilinear).
    """
    from torch import nn
    from torchvision.models import get_model

    size = {"image_size": resize or input_shape[1]} if arch in VITS else {}
    module: nn.Module = get_model(arch, weights=None, num_classes=num_classes, **size)
    if resize is None:
        return module
    scale = nn.Upsample((resize, resize), mode="bilinear")
    return nn.Sequential(OrderedDict(resize=scale, network=module))


def images_fit(
    args: Mapping[str, Any], input_shape: tuple[int, ...], _num_classes: int
) -> Finding | None:
    """Find images that the patches of a vision transformer do not cut."""
    arch, resize = args["arch"], args.get("resize")
    if arch not in VITS:
        return None
    if resize is None:
        return patches_fit("arch", VITS[arch].patch, input_shape)
    return patches_fit("resize", VITS[arch].patch, (3, resize, resize))
