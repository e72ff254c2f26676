"""Vision transformers (Dosovitskiy et al. 2021) by their sizes, built by torchvision; of their
counts, a formula, without torch.

An image is cut into square patches of p x p pixels; each is a token, beside one for the class.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from phasegrid.declare import DatasetFacts, Finding
from phasegrid.estimates import ModelCounts

if TYPE_CHECKING:
    from torch import nn


class Sizes(NamedTuple):
    """Pixels along the side of a patch, layers, heads, size of a token, hidden units."""

    patch: int
    depth: int
    heads: int
    width: int
    hidden: int


def make(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    patch: int,
    depth: int,
    heads: int,
    width: int,
    feed_forward: int,
    dropout: float,
) -> "nn.Module":
    """Make a vision transformer for square images (3, H, H), by torchvision; logits (N, classes).

    Patches of p = `patch` pixels; `depth` layers of normalised attention of `heads` heads over
    tokens of size d = `width`, and of a normalised feed-forward network of `feed_forward` times d
    GELU units; a last normalisation; a linear layer on the class token, which begins at zero.
    Names of layers and the initialisation are torchvision's.
    """
    from torchvision.models import VisionTransformer

    sizes = Sizes(patch, depth, heads, width, feed_forward * width)
    module: nn.Module = VisionTransformer(
        input_shape[1], *sizes, dropout=dropout, num_classes=num_classes
    )
    return module


def count(
    facts: DatasetFacts,
    *,
    patch: int,
    depth: int,
    heads: int,
    width: int,
    feed_forward: int,
    **_: object,
) -> ModelCounts:
    """Count a vision transformer."""
    return count_sizes(facts, Sizes(patch, depth, heads, width, feed_forward * width))


def count_sizes(facts: DatasetFacts, sizes: Sizes) -> ModelCounts:
    """Count a vision transformer of these sizes: exact for parameters and FLOPs.

    With n patches and n + 1 tokens of size d, f hidden units: 2 n 3 p^2 d FLOPs for the patches;
    2 (n + 1) (4 d^2 + 2 d f) and 4 (n + 1)^2 d for the attention of each layer. A layer keeps its
    two normalised inputs and what these were computed from, queries, keys, values, the result of
    its attention, and its hidden units before and after the GELU.
    """
    patch, depth, _, d, hidden = sizes
    channels, height, width_px = facts.input_shape
    num_patches = (height // patch) * (width_px // patch)
    tokens, pixels = num_patches + 1, channels * patch**2
    products = 4 * d**2 + 2 * d * hidden
    layer = products + 4 * d + d + hidden + 4 * d  # biases of attention and of the rest; two norms
    parameters = pixels * d + d + d + tokens * d + depth * layer + 2 * d
    flops = 2 * num_patches * pixels * d + depth * (2 * tokens * products + 4 * tokens**2 * d)
    kept = tokens * (2 * d + depth * (8 * d + 2 * hidden))
    return ModelCounts(
        parameters + (d + 1) * facts.num_classes,
        flops + 2 * d * facts.num_classes,
        kept,
        3 + 7 * depth,
    )


def images_fit(
    args: Mapping[str, Any], input_shape: tuple[int, ...], _num_classes: int
) -> Finding | None:
    """Find images that are not square, or no whole number of patches."""
    return patches_fit("patch", int(args["patch"]), input_shape)


def patches_fit(field: str, patch: int, input_shape: tuple[int, ...]) -> Finding | None:
    """Find images that patches do not cut, reported at `field`."""
    _, height, width_px = input_shape
    if height == width_px and height % patch == 0:
        return None
    return field, (
        f"found patches of {patch}x{patch} pixels for images of {height}x{width_px}; allowed:"
        " square images whose side is a multiple of the patch's"
    )
