"""Declare the built-in model families. A sweep's ``model: {name: ...}`` is looked up in `MODELS`.
Nothing here imports torch.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from phasegrid.declare import Model, later, locator
from phasegrid.models.shapes import (
    depth_fits_blocks,
    depth_is_6n_plus_2,
    depth_is_6n_plus_4,
    heads_divide_width,
    lenet5_fits,
    one_logit_fits,
    tied_sizes_agree,
)

Width = Annotated[int, Field(ge=1, le=65_536)]


@dataclass(frozen=True, slots=True)
class MlpArgs:
    """A fully connected network with `depth` hidden layers of `width` units.

    `outputs`: as many as there are ``classes``, or, for two classes, ``one_logit`` z, as in binary
    classification: the logits are then (0, z).
    """

    width: Width = 128
    depth: Annotated[int, Field(ge=1, le=64)] = 2
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    outputs: Literal["classes", "one_logit"] = later("classes")


@dataclass(frozen=True, slots=True)
class SmallCnnArgs:
    """Two 3x3 convolutions (k, 2k channels), each with ReLU and 2x2 max-pooling, and a linear
    layer.
    """

    width: Width = 8
    batch_norm: bool = False


@dataclass(frozen=True, slots=True)
class ResNet18Args:
    """ResNet18 with stages of width k, 2k, 4k, 8k and a 3x3 stem (the CIFAR form; k = 64 is the
    usual net).
    """

    width: Width = 64


@dataclass(frozen=True, slots=True)
class Vgg11Args:
    """VGG11 with convolutions of k, 2k, 4k, 4k, 8k, 8k, 8k, 8k channels, with bias, and one linear
    layer.
    """

    width: Width = 64
    batch_norm: bool = True


Dropout = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, slots=True)
class Vgg16Args:
    """VGG16 with convolutions of k to 8k channels, with bias, and three linear layers (8k, 8k,
    classes), `dropout` before the first two. The defaults are those of Garipov et al. 2018 and of
    Benton et al. 2021. `init`: as in their published codes (``he``), or ``xavier``.
    """

    width: Width = 64
    batch_norm: bool = False
    dropout: Dropout = 0.5
    init: Literal["he", "xavier"] = later("he")


@dataclass(frozen=True, slots=True)
class LeNet5Args:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling, for images of 32x32 pixels, or of
    28x28, which are padded. There are no arguments.
    """


@dataclass(frozen=True, slots=True)
class Conv3Fc3Args:
    """Three 5x5 convolutions (32, 64, 128 channels) with max-pooling, and linear layers of `width`,
    `width` and classes units (Garipov et al. 2018, section 4.2, where `width` is 1000 K).
    """

    width: Width = 1000


@dataclass(frozen=True, slots=True)
class PreResNetArgs:
    """A residual network for small images with activations before convolutions, of `depth` layers,
    in three stages of k, 2k, 4k channels (k = `width`).

    ``bottleneck``: `depth` is 9n + 2 (110 and 164 in Garipov et al. 2018, whose published code this
    is). ``basic``: 6n + 2 (158 in their paper).
    """

    depth: Annotated[int, Field(ge=8, le=10_000)] = 110
    width: Width = 16
    block: Literal["bottleneck", "basic"] = "bottleneck"


@dataclass(frozen=True, slots=True)
class ResNetCifarArgs:
    """The residual network for small images of He et al. 2016, section 4.2: `depth` = 6n + 2 layers
    (20, 32, 44, 56, 110), activations after additions, in three stages of k, 2k, 4k channels (k =
    `width`).

    `shortcut` where the shape changes: a 1x1 convolution with BatchNorm (``conv``, as in the
    published codes of Li et al. 2018 and Yao et al. 2020), or zeros in new channels (``pad``,
    option A of He et al.). ``none``: no shortcut in any block.
    """

    depth: Annotated[int, Field(ge=8, le=10_000)] = 32
    width: Width = 16
    shortcut: Literal["conv", "pad", "none"] = "conv"


@dataclass(frozen=True, slots=True)
class WideResNetArgs:
    """A wide residual network of `depth` = 6n + 4 layers, in three stages of 16k, 32k, 64k channels
    (k = `width`), with bias; 28 and 10 in Garipov et al. 2018.
    """

    depth: Annotated[int, Field(ge=10, le=10_000)] = 28
    width: Width = 10
    dropout: Dropout = 0.0


@dataclass(frozen=True, slots=True)
class TransformerArgs:
    """The Transformer for sentence pairs: an encoder and a decoder of `depth` layers each, token
    vectors of size d = `width`, a number of `heads` that divides d, and feed-forward networks of
    `feed_forward` times d units. Six layers, eight heads: Yang et al. 2021, B.3.
    """

    width: Width = 512
    depth: Annotated[int, Field(ge=1, le=64)] = 6
    heads: Annotated[int, Field(ge=1, le=1024)] = 8
    feed_forward: Annotated[int, Field(ge=1, le=64)] = 4


@dataclass(frozen=True, slots=True)
class LstmArgs:
    """The language model of Zaremba et al. 2014: `depth` LSTM layers of `width` units over word
    embeddings of size `embedding` (null: `width`).

    `tied`: the output layer's weight is the embedding. `dropout` acts on the embedded words and on
    the outputs of each layer, never from word to word. All weights and biases are drawn from
    U(-`init`, `init`). Small, medium and large: `width` 200, 650, 1500; `dropout` 0, 0.5, 0.65;
    `init` 0.1, 0.05, 0.04.
    """

    width: Width = 200
    depth: Annotated[int, Field(ge=1, le=64)] = 2
    embedding: Width | None = None
    tied: bool = False
    dropout: Dropout = 0.0
    init: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1


@dataclass(frozen=True, slots=True)
class VitArgs:
    """A vision transformer (Dosovitskiy et al. 2021) for square images of three channels, whose
    sides are a multiple of `patch` pixels.

    `depth` layers over tokens of size d = `width`, a number of `heads` that divides d, feed-forward
    networks of `feed_forward` times d units, with `dropout` after them and after attention.
    """

    patch: Annotated[int, Field(ge=1, le=1024)] = 4
    width: Width = 64
    depth: Annotated[int, Field(ge=1, le=64)] = 4
    heads: Annotated[int, Field(ge=1, le=1024)] = 4
    feed_forward: Annotated[int, Field(ge=1, le=64)] = 4
    dropout: Dropout = 0.0


Arch = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "vit_b_16",
    "vit_b_32",
    "vit_l_16",
    "vit_l_32",
]
"""Networks of torchvision, as `phasegrid.models.torchvision_nets` lists them."""


@dataclass(frozen=True, slots=True)
class TorchvisionArgs:
    """A network of torchvision, by its name there, for images of three channels.

    - `weights`: what a training begins from: a file with a state dict (written by ``torch.save`` or
      as safetensors), or weights that torchvision publishes (``IMAGENET1K_V1``, ``DEFAULT``), which
      are downloaded when the first training begins; null for a random network. For another number
      of classes the last layer begins anew; position embeddings of a vision transformer for other
      sizes of images are interpolated.
    - `resize`: scale images to so many pixels on each side (bilinear) in the network, so that data
      sets of small images stay small; 224 is usual for the published weights. null: as they are.
    - `sha256` of the file is filled in and is its identity; of published weights, the part of it
      that torchvision names.
    """

    arch: Arch = "resnet50"
    weights: str | None = locator(None)
    sha256: str = ""
    resize: Annotated[int, Field(ge=32, le=10_000)] | None = later(None)


_COUNTING = "phasegrid.models.counting"

MODELS: dict[str, Model] = {
    "mlp": Model(
        MlpArgs,
        "phasegrid.models.mlp:make",
        count=f"{_COUNTING}:count_mlp",
        fits=one_logit_fits,
    ),
    "lenet5": Model(
        LeNet5Args,
        "phasegrid.models.lenet5:make",
        count=f"{_COUNTING}:count_lenet5",
        smallest_image=28,
        fits=lenet5_fits,
    ),
    "small_cnn": Model(
        SmallCnnArgs,
        "phasegrid.models.small_cnn:make",
        count=f"{_COUNTING}:count_small_cnn",
        smallest_image=4,  # each 2x2 max-pooling needs two pixels
    ),
    "resnet18": Model(
        ResNet18Args,
        "phasegrid.models.resnet:make",
        count=f"{_COUNTING}:count_resnet18",
        smallest_image=1,
    ),
    "vgg11": Model(
        Vgg11Args,
        "phasegrid.models.vgg:make",
        count=f"{_COUNTING}:count_vgg11",
        smallest_image=32,  # as for small_cnn, with five of them
    ),
    "vgg16": Model(
        Vgg16Args,
        "phasegrid.models.vgg:make_vgg16",
        count=f"{_COUNTING}:count_vgg16",
        smallest_image=32,
    ),
    "conv3fc3": Model(
        Conv3Fc3Args,
        "phasegrid.models.conv3fc3:make",
        count=f"{_COUNTING}:count_conv3fc3",
        smallest_image=15,  # 3x3 poolings of stride 2 leave 7, 3 and 1
    ),
    "preresnet": Model(
        PreResNetArgs,
        "phasegrid.models.preresnet:make",
        count=f"{_COUNTING}:count_preresnet",
        smallest_image=1,
        rules=(depth_fits_blocks,),
    ),
    "resnet_cifar": Model(
        ResNetCifarArgs,
        "phasegrid.models.resnet:make_cifar",
        count=f"{_COUNTING}:count_resnet_cifar",
        smallest_image=1,
        rules=(depth_is_6n_plus_2,),
    ),
    "wide_resnet": Model(
        WideResNetArgs,
        "phasegrid.models.wide_resnet:make",
        count=f"{_COUNTING}:count_wide_resnet",
        smallest_image=1,
        rules=(depth_is_6n_plus_4,),
    ),
    "transformer": Model(
        TransformerArgs,
        "phasegrid.models.transformer:make",
        takes="translation",
        count=f"{_COUNTING}:count_transformer",
        rules=(heads_divide_width,),
    ),
    "lstm": Model(
        LstmArgs,
        "phasegrid.models.lstm:make",
        takes="language",
        count=f"{_COUNTING}:count_lstm",
        rules=(tied_sizes_agree,),
    ),
    "vit": Model(
        VitArgs,
        "phasegrid.models.vit:make",
        count="phasegrid.models.vit:count",
        smallest_image=1,
        channels=3,
        rules=(heads_divide_width,),
        fits="phasegrid.models.vit:images_fit",
    ),
    "torchvision": Model(
        TorchvisionArgs,
        "phasegrid.models.torchvision_nets:make",
        count="phasegrid.models.torchvision_nets:count",
        smallest_image=32,
        channels=3,
        begin="phasegrid.models.pretrained:begin",
        fingerprint="phasegrid.models.pretrained:fingerprint",
        fits="phasegrid.models.torchvision_nets:images_fit",
    ),
}
