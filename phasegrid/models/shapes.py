"""What the families are made of, and the check of their inputs, without torch: planning counts what
is built, and gives the same messages.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from phasegrid.declare import Finding, Model, import_function
from phasegrid.errors import DataError
from phasegrid.tasks import mismatch

VGG11: Sequence[tuple[int, ...]] = ((1,), (2,), (4, 4), (8, 8), (8, 8))
VGG16: Sequence[tuple[int, ...]] = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""Channels of the convolutions in units of the width, up to each pooling."""

CONV3FC3 = (32, 64, 128)
"""Channels of the convolutions."""

LENET5 = (6, 16, 120)
"""Channels of the convolutions."""

LENET5_SIDE = 32
"""Height and width of its images, after padding."""

STRIDES = (1, 2, 2)
"""Strides of the three stages of residual networks for small images."""


def blocks_of(depth: int, block: str) -> int:
    """Return the number n of blocks in a stage of a residual network of three stages.

    >>> blocks_of(164, "bottleneck"), blocks_of(158, "basic")
    (18, 26)
    """
    return (depth - 2) // LAYERS_OF_BLOCKS[block]


LAYERS_OF_BLOCKS = {"bottleneck": 9, "basic": 6}
"""Layers that a block in each of the three stages adds."""


def wide_blocks_of(depth: int) -> int:
    """Return the number n of blocks in a stage of a wide residual network of 6n + 4 layers."""
    return (depth - 4) // 6


def image_mistake(name: str, declared: Model, input_shape: tuple[int, ...]) -> str | None:
    """Return why inputs of this shape are not the images that a model takes, or None."""
    smallest, channels = declared.smallest_image, declared.channels
    if smallest is None:
        return None
    fits = len(input_shape) == 3 and min(input_shape[1:]) >= smallest
    if fits and channels in (None, input_shape[0]):
        return None
    depth = "channels" if channels is None else f"{channels} channels"
    return (
        f"one input has the shape {tuple(input_shape)}; {name} takes images ({depth}, height,"
        f" width) of at least {smallest}x{smallest} pixels. Choose another model or another"
        " data set"
    )


def lenet5_fits(
    _args: Mapping[str, Any], input_shape: tuple[int, ...], _num_classes: int
) -> Finding | None:
    """Find images that LeNet-5 does not take."""
    height, width_px = input_shape[1:]
    if height == width_px and height in (28, LENET5_SIDE):
        return None
    return "name", f"found images of {height}x{width_px}; allowed: of 28x28 or 32x32 pixels"


def one_logit_fits(
    args: Mapping[str, Any], _input_shape: tuple[int, ...], num_classes: int
) -> Finding | None:
    """Find a single logit for other than two classes."""
    if args.get("outputs", "classes") == "classes" or num_classes == 2:
        return None
    return "outputs", f"found one_logit for {num_classes} classes; allowed: for two classes"


def heads_divide_width(args: Mapping[str, Any]) -> Finding | None:
    """Find a Transformer whose heads would not be of equal width."""
    width, heads = args["width"], args["heads"]
    if width % heads == 0:
        return None
    return (
        "width",
        f"found width {width} with {heads} heads; allowed: a width divisible by the number of"
        f" heads",
    )


def depth_fits_blocks(args: Mapping[str, Any]) -> Finding | None:
    """Find a pre-activation network whose depth is no whole number of blocks."""
    depth, block = args["depth"], args["block"]
    layers = LAYERS_OF_BLOCKS[block]
    if depth >= layers + 2 and (depth - 2) % layers == 0:
        return None
    return "depth", f"found {depth} with block {block}; allowed: {layers}n + 2 (n = 1, 2, ...)"


def depth_is_6n_plus_2(args: Mapping[str, Any]) -> Finding | None:
    """Find a residual network for small images whose depth is no whole number of blocks."""
    depth = args["depth"]
    return None if depth % 6 == 2 else ("depth", f"found {depth}; allowed: 6n + 2 (n = 1, 2, ...)")


def depth_is_6n_plus_4(args: Mapping[str, Any]) -> Finding | None:
    """Find a wide network whose depth is no whole number of blocks."""
    depth = args["depth"]
    return None if depth % 6 == 4 else ("depth", f"found {depth}; allowed: 6n + 4 (n = 1, 2, ...)")


def tied_sizes_agree(args: Mapping[str, Any]) -> Finding | None:
    """Find a language model whose output layer cannot have the embedding as its weight."""
    width, embedding = args["width"], args["embedding"]
    if not args["tied"] or embedding in (None, width):
        return None
    return (
        "embedding",
        f"found embedding {embedding} with width {width} and tied: true; allowed: null, or an"
        " embedding as wide as the layers, or tied: false",
    )


def require_sound(
    name: str,
    declared: Model,
    args: Mapping[str, Any],
    input_shape: tuple[int, ...],
    num_classes: int,
) -> None:
    """Refuse arguments or inputs that a model family does not support.

    Raises:
        DataError: with what is wrong and what is allowed.
    """
    if mistake := image_mistake(name, declared, input_shape):
        raise DataError(f"building model {name}: {mistake}")
    found = [rule(args) for rule in declared.rules]
    if declared.fits is not None:
        found.append(import_function(declared.fits)(args, input_shape, num_classes))
    for finding in found:
        if finding is not None:
            raise DataError(f"building model {name}: {finding[1]}")


def require_task(family: str, takes: str, task: str) -> None:
    """Refuse data of a task that a family does not take.

    Raises:
        DataError: with both tasks.
    """
    mistake = mismatch(f"model {family}", takes, task)
    if mistake:
        raise DataError(f"building the network: {mistake}")
