"""What a network does that its traced graph does not show."""

from torch import nn

from phasegrid.models.norms import BATCH_NORMS

LAYERS = (nn.Linear, nn.Conv2d, *BATCH_NORMS)


def hidden_part(module: nn.Module) -> str | None:
    """Name the first part of a module in train mode that no graph shows: hooks, a replaced forward,
    computed parameters, frozen BatchNorm. Return None if there is none.
    """
    for name, layer in module.named_modules():
        hooks = (
            layer._forward_hooks,
            layer._forward_pre_hooks,
            layer._backward_hooks,
            layer._backward_pre_hooks,
        )
        if any(hooks):
            return f"{name or type(layer).__name__} has hooks"
        if "forward" in vars(layer):
            return f"{name or type(layer).__name__} has a forward that replaces that of its class"
        if not isinstance(layer, LAYERS):
            continue
        own = {key for key, _ in layer.named_parameters(recurse=False)}
        if type(layer) not in LAYERS or not own <= {"weight", "bias"}:
            return f"{name} ({layer}) computes its parameters"
        if isinstance(layer, BATCH_NORMS) and not layer.training:
            return f"{name} ({layer}) stays in eval mode"
    return None
