"""Check the arguments that say how statistics of BatchNorm are recomputed. No torch here."""

from collections.abc import Mapping
from typing import Any

from phasegrid.declare import Finding

USUAL = {"refresh_examples": None, "refresh_augment": "none"}
"""The arguments, and what they are where nobody says it; null is that too."""


def nothing_refreshed(args: Mapping[str, Any], source: Mapping[str, Any]) -> Finding | None:
    """Find an argument about statistics that are not recomputed, since those of the modes of the
    complex are mixed, which is or was trained with the arguments `source`.
    """
    if source.get("batch_norm") != "saved":
        return None
    for name, usual in USUAL.items():
        if args.get(name) not in (None, usual):
            return name, (
                f"found {args[name]} with batch_norm: saved, where no statistics are recomputed;"
                " leave it out"
            )
    return None
