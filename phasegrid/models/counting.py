"""Count parameters, forward FLOPs and activations of the built-in families in closed form, without
torch, to predict costs.

FLOPs are those of convolutions and matrix products for one example, and a multiply-add counts 2. As
in torch's own counter, biases, BatchNorm, activations and pooling are left out. An example of a
Transformer is a pair of sentences that both have the mean number of tokens. Activations are the
numbers that a backward pass keeps: inputs of layers with weights and of normalisations, outputs of
attention weights; a layer that overwrites its input keeps nothing of its own.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from phasegrid.declare import DatasetFacts, Tokens, import_function
from phasegrid.errors import SweepError
from phasegrid.estimates import ModelCounts
from phasegrid.jobs import Part
from phasegrid.models.shapes import (
    CONV3FC3,
    LENET5,
    LENET5_SIDE,
    STRIDES,
    VGG11,
    VGG16,
    blocks_of,
    require_sound,
    require_task,
    wide_blocks_of,
)
from phasegrid.registry import declared_model


def count_work(part: Part, facts: DatasetFacts) -> ModelCounts | None:
    """Count the parameters, FLOPs and activations of the model `part` for one example of a data
    set; None if its family does not declare them.

    Raises:
        DataError: if the model cannot take such examples.
        SweepError: if its own count fails.

    >>> mlp = Part("mlp", 1, {"width": 8, "depth": 1, "activation": "relu"})
    >>> count_work(mlp, DatasetFacts(100, 10, (2,), 2))
    ModelCounts(num_parameters=42, forward_flops=64, activations=10, layers=2)
    """
    declared = declared_model(part.name)
    if declared.count is None:
        return None
    require_task(part.name, declared.takes, facts.task)
    require_sound(part.name, declared, part.args, facts.input_shape, facts.num_classes)
    try:
        counts = import_function(declared.count)(facts, **part.args)
    except Exception as error:  # a user's code may raise anything
        raise SweepError(
            f"planning model {part.name}: its count raises {type(error).__name__}: {error}"
        ) from error
    if not isinstance(counts, ModelCounts):
        raise SweepError(
            f"planning model {part.name}: its count returned {counts!r}; allowed: ModelCounts"
        )
    return counts


def count_transformer(
    facts: DatasetFacts, *, width: int, depth: int, heads: int, feed_forward: int
) -> ModelCounts:
    """Count the parameters of a Transformer, and FLOPs and activations for a pair of sentences that
    both have the mean number of tokens, rounded.

    Attention costs 4 length^2 d per layer of the encoder and twice that per layer of the decoder,
    because positions that are then hidden are computed too. Exact for a batch of the mean length.
    """
    form, length = facts.form, facts.labels_per_example
    assert isinstance(form, Tokens)
    attention = _total([_linear(width, width)] * 4)
    feed = _total([_linear(width, feed_forward * width), _linear(feed_forward * width, width)])
    sublayers = _total([*[attention] * 3, *[feed] * 2])  # of encoder and decoder together
    output = _linear(width, form.target_vocabulary)
    norms = 2 * width * (5 * depth + 2)
    embeddings = width * (form.source_vocabulary + form.target_vocabulary)
    looking = 3 * depth * 4 * length**2 * width
    flops = length * (depth * sublayers.forward_flops + output.forward_flops) + looking
    parameters = depth * sublayers.num_parameters + output.num_parameters + norms + embeddings
    # An attention sublayer keeps its normalised input, queries, keys, values and result. A
    # feed-forward sublayer keeps its input and its hidden units before and after the ReLU. At the
    # end the logits and their softmax are kept.
    per_token = depth * (3 * 6 + 2 * (2 + 2 * feed_forward)) * width + 2 * form.target_vocabulary
    kept = length * per_token + depth * 3 * heads * length**2
    layers = 9 * depth + 15 * depth + 5  # products, attentions and normalisations; both embeddings
    return ModelCounts(parameters, round(flops), round(kept), layers)


def count_lstm(
    facts: DatasetFacts, *, width: int, depth: int, embedding: int | None, tied: bool, **_: Any
) -> ModelCounts:
    """Count a language model of LSTM layers; an example is a window of words.

    The kernel of a layer keeps its gates, its cells and their tanh, and its outputs.
    """
    words, length = facts.num_classes, facts.labels_per_example
    size = width if embedding is None else embedding
    weights = [4 * width * (below + width) for below in (size, *[width] * (depth - 1))]
    output = _linear(width, words)
    embedded = 0 if tied else words * size
    parameters = embedded + sum(weights) + 4 * width * depth + output.num_parameters
    flops = 2 * sum(weights) + output.forward_flops
    kept = size + 7 * depth * width + 2 * words
    return ModelCounts(parameters, round(length * flops), round(length * kept), 2 * depth + 2)


def count_mlp(
    facts: DatasetFacts, *, width: int, depth: int, outputs: str = "classes", **_: Any
) -> ModelCounts:
    """Count a fully connected network."""
    last = 1 if outputs == "one_logit" else facts.num_classes
    sizes = [math.prod(facts.input_shape), *[width] * depth, last]
    return _total(_linear(a, b) for a, b in pairwise(sizes))


def count_small_cnn(facts: DatasetFacts, *, width: int, batch_norm: bool) -> ModelCounts:
    """Count the small convolutional network."""
    channels, height, width_px = facts.input_shape
    per_channel = 2 if batch_norm else 1  # scale and shift, or bias
    return _total(
        [
            _conv(channels, width, 3, height * width_px, per_channel),
            _conv(width, 2 * width, 3, (height // 2) * (width_px // 2), per_channel),
            _linear(2 * width * (height // 4) * (width_px // 4), facts.num_classes),
        ]
    )


def count_resnet18(facts: DatasetFacts, *, width: int) -> ModelCounts:
    """Count ResNet18."""
    return _resnet(facts, [width, 2 * width, 4 * width, 8 * width], 2, "conv")


def count_resnet_cifar(
    facts: DatasetFacts, *, depth: int, width: int, shortcut: str
) -> ModelCounts:
    """Count the residual network of 6n + 2 layers for small images."""
    return _resnet(facts, [width, 2 * width, 4 * width], blocks_of(depth, "basic"), shortcut)


def _resnet(facts: DatasetFacts, widths: Sequence[int], num: int, shortcut: str) -> ModelCounts:
    channels, height, width_px = facts.input_shape
    layers, size = [_conv(channels, widths[0], 3, height * width_px, 2)], widths[0]
    for stage, out in enumerate(widths):
        if stage > 0:
            height, width_px = math.ceil(height / 2), math.ceil(width_px / 2)
        places = height * width_px
        layers += [_conv(size, out, 3, places, 2), *[_conv(out, out, 3, places, 2)] * (2 * num - 1)]
        if stage > 0 and shortcut == "conv":
            layers.append(_conv(size, out, 1, places, 2))
        size = out
    return _total([*layers, _linear(size, facts.num_classes)])


def count_vgg11(facts: DatasetFacts, *, width: int, batch_norm: bool) -> ModelCounts:
    """Count VGG11."""
    features = _vgg(VGG11, facts.input_shape, width, batch_norm)
    return _total([*features, _linear(8 * width, facts.num_classes)])


def count_vgg16(facts: DatasetFacts, *, width: int, batch_norm: bool, **_: Any) -> ModelCounts:
    """Count VGG16."""
    features = _vgg(VGG16, facts.input_shape, width, batch_norm)
    sizes = [*[8 * width] * 3, facts.num_classes]
    return _total([*features, *(_linear(a, b) for a, b in pairwise(sizes))])


def _vgg(
    parts: Iterable[tuple[int, ...]], shape: tuple[int, ...], width: int, batch_norm: bool
) -> list[ModelCounts]:
    channels, height, width_px = shape
    layers = []
    for halvings, factors in enumerate(parts):
        places = (height >> halvings) * (width_px >> halvings)
        for factor in factors:
            layers.append(_conv(channels, factor * width, 3, places, 3 if batch_norm else 1))
            channels = factor * width
    return layers


def count_conv3fc3(facts: DatasetFacts, *, width: int) -> ModelCounts:
    """Count the network of three convolutions and three linear layers."""
    channels, height, width_px = facts.input_shape
    layers = []
    for out in CONV3FC3:
        layers.append(_conv(channels, out, 5, height * width_px, 1))
        channels, height, width_px = out, (height - 1) // 2, (width_px - 1) // 2
    sizes = [channels * height * width_px, width, width, facts.num_classes]
    return _total([*layers, *(_linear(a, b) for a, b in pairwise(sizes))])


def count_lenet5(facts: DatasetFacts) -> ModelCounts:
    """Count LeNet-5."""
    channels, side, layers = facts.input_shape[0], LENET5_SIDE, []
    for out in LENET5:
        side -= 4
        layers.append(_conv(channels, out, 5, side**2, 1))
        channels, side = out, side // 2
    return _total([*layers, _linear(channels, 84), _linear(84, facts.num_classes)])


def count_preresnet(facts: DatasetFacts, *, depth: int, width: int, block: str) -> ModelCounts:
    """Count a residual network with activations before convolutions."""
    channels, height, width_px = facts.input_shape
    layers, size = [_conv(channels, width, 3, height * width_px, 0)], width
    for stage, stride in enumerate(STRIDES):
        inner = width * 2**stage
        for index in range(blocks_of(depth, block)):
            before = height * width_px
            if index == 0:
                height, width_px = math.ceil(height / stride), math.ceil(width_px / stride)
            places = height * width_px
            out = 4 * inner if block == "bottleneck" else inner
            if block == "bottleneck":
                layers += [_norm(size, before), _conv(size, inner, 1, before, 0)]
                layers += [_norm(inner, before), _conv(inner, inner, 3, places, 0)]
                layers += [_norm(inner, places), _conv(inner, out, 1, places, 0)]
            else:
                layers += [_norm(size, before), _conv(size, out, 3, places, 0)]
                layers += [_norm(out, places), _conv(out, out, 3, places, 0)]
            if index == 0 and (block == "basic" or stride != 1 or size != out):
                layers.append(_conv(size, out, 1, places, 0))
            size = out
    return _total([*layers, _norm(size, height * width_px), _linear(size, facts.num_classes)])


def count_wide_resnet(facts: DatasetFacts, *, depth: int, width: int, **_: Any) -> ModelCounts:
    """Count a wide residual network."""
    channels, height, width_px = facts.input_shape
    layers, size = [_conv(channels, 16, 3, height * width_px, 1)], 16
    for stage, stride in enumerate(STRIDES):
        out = 16 * width * 2**stage
        for index in range(wide_blocks_of(depth)):
            before = height * width_px
            if index == 0:
                height, width_px = math.ceil(height / stride), math.ceil(width_px / stride)
            places = height * width_px
            layers += [_norm(size, before), _conv(size, out, 3, before, 1)]
            layers += [_norm(out, before), _conv(out, out, 3, places, 1)]
            if index == 0 and (stride != 1 or size != out):
                layers.append(_conv(size, out, 1, places, 1))
            size = out
    return _total([*layers, _norm(size, height * width_px), _linear(size, facts.num_classes)])


def _norm(channels: int, places: int) -> ModelCounts:
    """Count a BatchNorm that comes before a convolution; the convolution's input is its output."""
    return ModelCounts(2 * channels, 0, channels * places, 1)


def _conv(channels: int, out: int, kernel: int, places: int, per_channel: int) -> ModelCounts:
    """Count a convolution with `places` = height x width outputs; `per_channel` counts bias and
    BatchNorm.

    BatchNorm keeps its input, in addition to what the next layer keeps.
    """
    weights, kept = channels * out * kernel**2, 2 if per_channel > 1 else 1
    return ModelCounts(weights + per_channel * out, 2 * weights * places, kept * out * places, kept)


def _linear(size: int, out: int) -> ModelCounts:
    return ModelCounts(size * out + out, 2 * size * out, out, 1)


def _total(layers: Iterable[ModelCounts]) -> ModelCounts:
    return ModelCounts(*map(sum, zip(*layers, strict=True)))
