"""Trace a network with ``torch.fx``: in-place sums stay in place, and the network is left
unchanged.

Tracing runs a user's code once, on stand-ins. The code may count calls, keep stand-ins in
attributes and draw from the process's generators; all this is undone. A graph would not repeat
draws or counts, so a network that does such things is refused.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from phasegrid.models.network_state import attributes_of, kept_attributes
from phasegrid.seeding import all_draws, have_changed, kept_draws


class UnreadableError(ValueError):
    """The forward pass of a network does what a graph cannot show; the message names it."""


def trace(module: nn.Module) -> fx.Graph:
    """Trace a network in its present modes.

    Raises:
        UnreadableError: if its forward draws random numbers or assigns to its attributes.
        Exception: whatever its code raises on stand-ins.
    """
    with kept_draws(), kept_attributes(module):
        drawn, before = all_draws(), attributes_of(module)
        graph = _Tracer().trace(module)
        if have_changed(drawn, all_draws()):
            raise UnreadableError("its forward draws random numbers")
        names = [name for some in before.assigned(module) for name in some]
    if names:
        raise UnreadableError(f"its forward assigns to {names[0]!r}")
    return graph


class _InPlaceProxy(fx.Proxy):
    """A stand-in that records ``x += y`` as an operation in place; torch's own stand-in records ``x
    = x + y``, which is wrong if other code uses x.
    """

    def __iadd__(self, other: object) -> Any:
        return _recorded(self, operator.iadd, other)

    def __isub__(self, other: object) -> Any:
        return _recorded(self, operator.isub, other)

    def __imul__(self, other: object) -> Any:
        return _recorded(self, operator.imul, other)

    def __itruediv__(self, other: object) -> Any:
        return _recorded(self, operator.itruediv, other)


def _recorded(proxy: fx.Proxy, function: Callable[..., Any], other: object) -> Any:
    return proxy.tracer.create_proxy("call_function", function, (proxy, other), {})


class _Tracer(fx.Tracer):
    def proxy(self, node: torch.fx.Node) -> fx.Proxy:
        return _InPlaceProxy(node, self)
