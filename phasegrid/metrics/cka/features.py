"""Compute the features of a layer of a network in eval mode: one row for each compared example.

Letters: m examples, d features.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.models.evaluation import itemsize_of
from phasegrid.models.network_state import evaluating
from phasegrid.tasks.operations import Chunk, Probe

SOFTMAX = "softmax"
OUTPUTS = (SOFTMAX, "logits")  # layers that are not names of submodules


def collect_features(
    module: nn.Module, probe: Probe, layers: Sequence[str], batch_size: int | None = None
) -> dict[str, Tensor]:
    """Return the outputs (m, d) of `layers` for the m examples of `probe`, in eval mode.

    Raises:
        MetricError: if the examples are mixed and `module` cannot do that, or a layer is not a
        submodule, does not run, or gives no tensor with a row per example.
    """
    caught: dict[str, list[Tensor]] = {name: [] for name in layers if name not in OUTPUTS}
    chunks = probe.chunks(itemsize_of(module), batch_size)
    now, logits = chunks[0], []

    def keep(name: str, output: Tensor) -> None:
        caught[name].append(probe.rows(name, output, now))

    with evaluating(module), _listening(module, list(caught), keep):
        for chunk in chunks:
            now = chunk
            logits.append(probe.rows("logits", probe.run(module, chunk), chunk))
    order = _order_of(chunks)
    features = {name: _join(kept, name, len(probe)) for name, kept in caught.items()}
    features["logits"] = torch.cat(logits)
    features[SOFTMAX] = _softmax(features["logits"])
    return {name: features[name] if order is None else features[name][order] for name in layers}


def _order_of(chunks: Sequence[Chunk]) -> Tensor | None:
    """Return the indices that put the rows of chunks back into the order of the examples; None if
    they are in this order already.
    """
    indices = [chunk for chunk in chunks if isinstance(chunk, Tensor)]
    return torch.cat(indices).argsort() if indices else None


def _softmax(logits: Tensor) -> Tensor:
    return logits.double().softmax(1).to(logits.dtype)


@contextmanager
def _listening(
    module: nn.Module, names: Sequence[str], hear: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call `hear` with each output of the submodules called `names` while the context lasts."""
    submodules = {name: layer for name, layer in module.named_modules() if name}
    for name in names:
        if name not in submodules:
            raise MetricError(
                f"CKA: the model has no layer {name!r}; it has {', '.join([*OUTPUTS, *submodules])}"
            )
    hooks = [submodules[name].register_forward_hook(partial(_tell, hear, name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _tell(
    hear: Callable[[str, Tensor], None], name: str, _layer: nn.Module, _args: object, output: object
) -> None:
    if not isinstance(output, Tensor):
        raise MetricError(f"CKA: layer {name!r} gives {type(output).__name__}, not one tensor")
    hear(name, output)


def _join(kept: list[Tensor], name: str, num: int) -> Tensor:
    rows = sum(len(part) for part in kept)
    if rows != num:
        raise MetricError(
            f"CKA: layer {name!r} gave {rows} rows for {num} inputs; a layer must run once per "
            "forward pass and keep one row per example"
        )
    return torch.cat(kept)
