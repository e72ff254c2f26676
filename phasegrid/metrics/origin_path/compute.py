"""Measure the path (t W_i, t^i b_i) of a chain of layers i = 1, ..., n (Garipov et al. 2018, A.6).

With positively homogeneous functions phi between the layers (phi(c x) = c phi(x) for c > 0: ReLU,
pooling, flattening), and z_i the output of layer i,

    z_i(t) = t W_i phi(z_{i-1}(t)) + t^i b_i = t^i z_i(1),

by induction. So logits scale by t^n. Letters: T points, N examples, C classes.
"""

from collections.abc import Sequence

import torch
from torch import fx, nn
from torch.nn import functional

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.network.points import Numbers, Row, finite_or_none
from phasegrid.metrics.origin_path import OriginPathArgs
from phasegrid.models.evaluation import evaluate, predict
from phasegrid.models.hidden_parts import hidden_part
from phasegrid.models.network_state import copy_network
from phasegrid.models.tracing import trace
from phasegrid.seeding import nothing_drawn

AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
HOMOGENEOUS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
)
"""Layers that scale with their input, in eval mode."""

FUNCTIONS = (
    functional.relu,
    torch.relu,
    functional.leaky_relu,
    functional.max_pool2d,
    functional.avg_pool2d,
    functional.adaptive_avg_pool2d,
    torch.flatten,
)
METHODS = ("relu", "flatten", "contiguous")


def compute(
    models: Sequence[nn.Module], data: Dataset, _rng: torch.Generator, **args: object
) -> Row:
    """Measure the path of one model on the whole of both sets; `args` are the fields of
    `OriginPathArgs`. Exact; nothing is drawn.

    Raises:
        MetricError: if there is not one model, or logits do not scale by t^n on its path.
    """
    settings = OriginPathArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    if len(models) != 1:
        raise MetricError(f"the path through the origin is of one model, got {len(models)}")
    with nothing_drawn("path through the origin", data.train_inputs.device):
        return _measured(models[0], data, settings.points)


def layers_in_order(module: nn.Module) -> list[nn.Module]:
    """Return the linear layers and convolutions of a chain in the order in which it runs them.

    Raises:
        MetricError: if it is not a chain of these and of functions that scale with their input.
    """
    if reason := hidden_part(copy_network(module).train()):
        raise _refused(reason)
    try:
        graph = trace(module)
    except Exception as error:  # whatever the network's code raises on stand-ins
        raise _refused(f"it cannot be traced: {error}") from error
    layers: list[nn.Module] = []
    last: list[fx.Node] = []
    for node in graph.nodes:
        if node.all_input_nodes != last:
            raise _refused(f"at {node.name} it is no chain: something skips layers or joins them")
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            if type(layer) in AFFINE and layer not in layers:
                layers.append(layer)
            elif type(layer) not in HOMOGENEOUS:
                raise _refused(f"it runs layer {node.target!r} ({layer})")
        elif node.op not in ("placeholder", "output") and node.target not in (
            *FUNCTIONS,
            *METHODS,
        ):
            raise _refused(f"it runs {node.name}")
        last = [node]
    return layers


def _refused(why: str) -> MetricError:
    return MetricError(
        f"the path through the origin: found a network of which {why}. Its logits would not scale"
        " by t^n. Allowed: linear layers and convolutions, each run once, one after another, with"
        " ReLU, pooling, flattening or dropout between them"
    )


def _measured(model: nn.Module, data: Dataset, points: int) -> Row:
    moving, layers = copy_network(model), layers_in_order(model)
    own, scaled = layers, layers_in_order(moving)
    whole = predict(model, data.test_inputs).double()
    classes, changed = whole.argmax(1), torch.zeros(len(whole), dtype=torch.bool)
    times = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
    columns: dict[str, Numbers] = {name: [] for name in LISTS}
    largest = 0.0
    for t in times:
        _scale(scaled, own, t)
        for part, inputs, labels in (
            ("train", data.train_inputs, data.train_labels),
            ("test", data.test_inputs, data.test_labels),
        ):
            found = evaluate(moving, inputs, labels, data.scoring)
            columns[f"{part}_loss"].append(finite_or_none(found.loss))
            columns[f"{part}_error_percent"].append(found.error_percent if t else None)
        if t:
            logits = predict(moving, data.test_inputs).double()
            expected = t ** len(own) * whole
            apart = float((logits - expected).abs().max() / expected.abs().max())
            largest = max(largest, apart)
            changed |= (logits.argmax(1) != classes).to(changed)
    return {
        "t": times,
        **columns,
        "scaling_error": finite_or_none(largest),
        "num_changed": int(changed.sum()),
        "num_layers": len(own),
    }


LISTS = tuple(f"{part}_{kind}" for part in ("train", "test") for kind in ("loss", "error_percent"))


def _scale(layers: Sequence[nn.Module], own: Sequence[nn.Module], t: float) -> None:
    """Give `layers` the weights t W_i and the biases t^i b_i of their `own`."""
    for number, (layer, origin) in enumerate(zip(layers, own, strict=True), start=1):
        for name, value in origin.named_parameters(recurse=False):
            factor = t if name == "weight" else t**number
            layer.get_parameter(name).data.copy_(factor * value.detach())
