"""What inputs a family takes. Without torch, so that planning and building refuse the same inputs
in the same words.
"""

from typing import Literal

from phasegrid.declare import Tokens
from phasegrid.errors import DataError

SMALLEST = {"small_cnn": 4, "resnet18": 1, "vgg11": 32}  # every 2x2 max-pooling needs two pixels


def require_image(family: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (channels, height, width), or refuse an input that `family` cannot take.

    Raises:
        DataError: if `input_shape` is no image, or smaller than the family's `SMALLEST` in height
        or width.
    """
    if mistake := image_mistake(family, input_shape):
        raise DataError(f"building model {family}: {mistake}")
    channels, height, width = input_shape
    return channels, height, width


def image_mistake(family: str, input_shape: tuple[int, ...]) -> str | None:
    """Return why a family of `SMALLEST` cannot take inputs of this shape, or None."""
    smallest = SMALLEST[family]
    if len(input_shape) == 3 and min(input_shape[1:]) >= smallest:
        return None
    return (
        f"one input has the shape {tuple(input_shape)}; {family} takes images (channels, height,"
        f" width) of at least {smallest}x{smallest} pixels. Choose another model or another"
        " data set"
    )


def heads_mistake(width: int, heads: int) -> str | None:
    """Return what is wrong with a Transformer of `heads` attention heads and this width, or
    None.
    """
    if width % heads == 0:
        return None
    return (
        f"found width {width} with {heads} heads; allowed: a width that the number of heads divides"
    )


def require_heads(width: int, heads: int) -> None:
    """Refuse a Transformer whose heads would not be of equal width.

    Raises:
        DataError: if `heads` does not divide `width`.
    """
    mistake = heads_mistake(width, heads)
    if mistake:
        raise DataError(f"building model transformer: {mistake}")


def kind_mistake(
    family: str, takes: Literal["arrays", "tokens"], tokens: Tokens | None
) -> str | None:
    """Return why a family that `takes` such examples does not fit a data set with these `tokens`,
    or None.
    """
    if (takes == "tokens") == (tokens is not None):
        return None
    if tokens is None:
        return (
            f"model {family} takes sentence pairs, but the data set has none; choose a model for"
            " images or vectors, or the data set translation"
        )
    return (
        f"model {family} takes images or vectors, but the data set holds sentence pairs; choose a"
        " model that takes those, as transformer does, or another data set"
    )


def require_kind(family: str, takes: Literal["arrays", "tokens"], tokens: Tokens | None) -> None:
    """Refuse a data set of another kind than a family takes.

    Raises:
        DataError: saying which is which.
    """
    mistake = kind_mistake(family, takes, tokens)
    if mistake:
        raise DataError(f"building the network: {mistake}")
