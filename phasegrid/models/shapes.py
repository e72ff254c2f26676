"""What inputs a family takes. Without torch, so that planning and building refuse the same inputs in the same words."""

from phasegrid.errors import DataError

SMALLEST = {"small_cnn": 4, "resnet18": 1, "vgg11": 32}  # every 2x2 max-pooling needs two pixels


def require_image(family: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (channels, height, width), or refuse an input that `family` cannot take.

    Raises:
        DataError: if `input_shape` is no image, or smaller than the family's `SMALLEST` in height or width.
    """
    smallest = SMALLEST[family]
    if len(input_shape) == 3 and min(input_shape[1:]) >= smallest:
        channels, height, width = input_shape
        return channels, height, width
    raise DataError(
        f"building model {family}: one input has the shape {tuple(input_shape)}; it takes images (channels, "
        f"height, width) of at least {smallest}x{smallest} pixels. Choose another model or another data set"
    )
