"""Begin trainings from the weights in a file: of your own, or one that torchvision publishes.

A file holds a state dict: tensors by name, written by ``torch.save`` (read with ``weights_only``,
so that nothing in it is executed) or as safetensors. Its SHA-256 is its identity; the path is only
where it lies. For the weights that torchvision names (``IMAGENET1K_V1``) the identity is the
beginning of the SHA-256 that torchvision publishes, in the name of the file.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phasegrid.errors import DataError
from phasegrid.keys import Json

if TYPE_CHECKING:
    from torch import Tensor, nn

PUBLISHED = r"DEFAULT|[A-Z][A-Z0-9_]*_V[0-9]+"
"""The form of the names that torchvision gives to weights; anything else is a path."""

_POSITIONS = "encoder.pos_embedding"
_NAMED = 5  # a message shows so many names of tensors


def fingerprint(args: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return ``{"sha256": ...}`` of the weights that ``args["weights"]`` names, or, if torchvision
    publishes them, the beginning of it.

    Raises:
        DataError: if there are no such weights, or they are not those that ``sha256`` names.
    """
    weights, wanted = args["weights"], args["sha256"]
    if weights is None:
        if wanted:
            raise DataError("beginning from weights: found sha256 without weights; write both")
        return {}
    assert isinstance(weights, str)
    if re.fullmatch(PUBLISHED, weights):
        found = _published(str(args["arch"]), weights)[1]
    else:
        found = _digest(Path(weights))
    if wanted and wanted != found:
        raise DataError(_changed(weights, found, str(wanted)))
    return {"sha256": found}


def begin(
    module: "nn.Module",
    *,
    arch: str,
    weights: str | None = None,
    sha256: str = "",
    resize: int | None = None,
) -> None:
    """Load the weights into a new network. If they are for another number of classes, the last
    layer keeps its initialisation. The position embeddings of a vision transformer for images of
    another size are interpolated (Dosovitskiy et al. 2021, section 3.2; torchvision's function).

    Raises:
        DataError: if the file is missing, is not the one that `sha256` names, cannot be read, or
            is not of such a network.
    """
    if not sha256:
        return
    if weights is None:
        raise DataError(f"beginning from the weights of SHA-256 {sha256}: no file is named")
    path = _fetched(arch, weights) if re.fullmatch(PUBLISHED, weights) else Path(weights)
    found = _digest(path)
    if not found.startswith(sha256):
        raise DataError(_changed(str(path), found, sha256))
    network = module if resize is None else module.get_submodule("network")
    state = _placed(_read(path), network)
    network.load_state_dict(_fitted(state, network, f"{path} to {arch}"))


def _published(arch: str, name: str) -> tuple[str, str]:
    """Return the address of weights that torchvision publishes, and the beginning of their SHA-256,
    which is in the name of the file.
    """
    from torchvision.models import get_model_weights

    known = get_model_weights(arch)
    if name not in known.__members__:
        raise DataError(
            f"beginning from weights {name} of {arch}: torchvision knows"
            f" {', '.join(known.__members__)}; write one of these, or the path of a file"
        )
    url = str(known[name].url)
    found = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    assert found is not None
    return url, found[1]


def _fetched(arch: str, name: str) -> Path:
    """Return the file of published weights in torch's cache, downloaded if it is not there."""
    from torch import hub

    url, digest = _published(arch, name)
    path = Path(hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise DataError(
            f"beginning from weights {name} of {arch}: downloading them to {path} failed ({error});"
            " copy the file there, or name a file: model.weights: FILE"
        ) from error
    return path


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"beginning from weights: cannot read {path.absolute()} ({error.strerror or error});"
            " model.weights is the path of a file with a state dict, or a name that torchvision"
            " gives to weights, as IMAGENET1K_V1"
        ) from error


def _changed(which: str, found: str, wanted: str) -> str:
    return (
        f"beginning from weights: {which} has the SHA-256 {found}, but model.sha256 is {wanted}:"
        " the file has changed. Put the old one back, or leave sha256 out and plan again"
    )


def _read(path: Path) -> "dict[str, Tensor]":
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of the file system, of torch, or of what it reads with
        why = str(error).partition(".")[0]  # what torch says further is how to load it unsafely
        raise DataError(
            f"beginning from weights: {path} cannot be read as tensors alone ({why}); write it"
            " by torch.save(model.state_dict(), FILE) or as FILE.safetensors"
        ) from error
    if not (
        isinstance(found, Mapping) and all(isinstance(v, torch.Tensor) for v in found.values())
    ):
        raise DataError(
            f"beginning from weights: {path} holds a {type(found).__name__} that is no state dict;"
            " allowed: tensors by name, as in torch.save(model.state_dict(), FILE)"
        )
    return dict(found)


def _placed(found: "dict[str, Tensor]", network: "nn.Module") -> "dict[str, Tensor]":
    """Return the state with the position embeddings of a vision transformer at the network's
    places.
    """
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    if not isinstance(network, VisionTransformer) or _POSITIONS not in found:
        return found
    return dict(interpolate_embeddings(network.image_size, network.patch_size, found))


def _fitted(found: "dict[str, Tensor]", module: "nn.Module", what: str) -> "dict[str, Tensor]":
    """Return the state for a network; the last layer's own where the number of classes differs."""
    own = module.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = own.keys() - found.keys() - counters  # files of old versions of torch lack these
    other = [f"lacks {name}" for name in sorted(missing)]
    other += [f"has also {name}" for name in sorted(found.keys() - own.keys())]
    resized = {name for name in own if name in found and found[name].shape != own[name].shape}
    last = _last_layer(module)
    other += [
        f"{name} is {tuple(found[name].shape)}, not {tuple(own[name].shape)}"
        for name in sorted(resized)
        if name.rpartition(".")[0] != last
    ]
    if other:
        more = f" and {len(other) - _NAMED} more" if len(other) > _NAMED else ""
        raise DataError(
            f"beginning from weights: {what}: the file {', '.join(other[:_NAMED])}{more}; allowed:"
            " the state dict of this network, its last layer of any number of classes"
        )
    return {**own, **{name: found[name] for name in found.keys() - resized}}


def _last_layer(module: "nn.Module") -> str:
    """Return the name of the layer with weights that was added last: the classifier."""
    *_, last = (name for name, m in module.named_modules() if [*m.parameters(recurse=False)])
    return str(last)
