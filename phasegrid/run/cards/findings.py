"""Tell from a card what is wrong with it: what, where, what was found, what to do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from phasegrid.run.cards.card import GIB, Card, NodeCards, card_name
from phasegrid.texts import counted

Kind = Literal["lost", "hot", "braked", "full", "shared", "memory errors"]

LEAST_FREE = 0.2  # of its memory; packs are sized as if all of it were theirs
MOST_UNSEEN_BYTES = GIB  # what contexts and drivers hold that no process is charged with


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with the card `index` of a machine, as a sentence."""

    host: str
    index: int
    kind: Kind
    text: str


def findings_of(nodes: Sequence[NodeCards]) -> list[Finding]:
    """Return what is wrong with the cards of these machines."""
    return [
        Finding(node.host, card.index, kind, f"{card_name(card, node.host)} {text}")
        for node in nodes
        for card in node.cards
        for kind, text in _of_card(card)
    ]


def _of_card(card: Card) -> Iterator[tuple[Kind, str]]:
    if card.lost is not None:
        yield (
            "lost",
            f"is lost (NVML: {card.lost}): nothing can run on it. Reset it (nvidia-smi --gpu-reset"
            f" -i {card.index}) or restart its machine; until then leave it out of"
            " CUDA_VISIBLE_DEVICES",
        )
        return
    if "heat" in card.slowed_by:
        yield "hot", _hot(card)
    if "power brake" in card.slowed_by:
        yield (
            "braked",
            "is slowed down by its power supply: forecasts are off until that ends. Look at the"
            " power supply of its machine",
        )
    if card.uncorrected_errors:
        yield (
            "memory errors",
            f"has had {counted(card.uncorrected_errors, 'uncorrected error')} of its memory since"
            " its driver was loaded: a process that meets one dies, and its jobs are done again."
            " Reset the card; if errors come back, have it replaced",
        )
    yield from _of_memory(card)


def _hot(card: Card) -> str:
    now = f"{card.temperature_c} C" if card.temperature_c is not None else "temperature unknown"
    limit = f", slows down at {card.slows_at_c} C" if card.slows_at_c is not None else ""
    return (
        f"is hot and slowed down for it ({now}{limit}): forecasts are off until it has cooled."
        " Look at its fans and at the air of its machine"
    )


def _of_memory(card: Card) -> Iterator[tuple[Kind, str]]:
    """Say who else computes on a card, and whether they leave room."""
    if card.is_split or card.processes is None:
        return
    foreign = [process for process in card.processes if process.is_ours is False]
    unseen = _unseen_bytes(card)
    who = ""
    if card.num_foreign:
        each = ", ".join(f"pid {p.pid}{_memory(p.used_bytes)}" for p in foreign)
        what = "1 process" if card.num_foreign == 1 else f"{card.num_foreign} processes"
        who = f"{what} of others{f' ({each})' if each else ''}"
    elif unseen is not None and unseen > MOST_UNSEEN_BYTES:
        who = f"processes that this one cannot see ({unseen / GIB:.1f} GiB)"
    if who:
        yield (
            "shared",
            f"is shared with {who}: forecasts and the number of packs on it are off. End them, or"
            " give this run other cards (CUDA_VISIBLE_DEVICES)",
        )
    left = _left_bytes(card)
    if left is not None and card.total_bytes and left < LEAST_FREE * card.total_bytes:
        yield (
            "full",
            f"is full: others leave {left / GIB:.1f} of its {card.total_bytes / GIB:.1f} GiB, and"
            " packs will run out of memory. End those processes, or give this run other cards"
            " (CUDA_VISIBLE_DEVICES)",
        )


def _memory(used_bytes: int | None) -> str:
    return "" if used_bytes is None else f" with {used_bytes / GIB:.1f} GiB"


def _unseen_bytes(card: Card) -> int | None:
    """Return the memory in use that no listed process holds; None if that is unknown."""
    held = [process.used_bytes for process in card.processes or ()]
    if card.used_bytes is None or None in held or not _is_told(card):
        return None
    return card.used_bytes - sum(one for one in held if one is not None)


def _is_told(card: Card) -> bool:
    """Say whether NVML lists processes as this machine numbers them: some containers see none."""
    return any(process.is_ours is not None for process in card.processes or ())


def _left_bytes(card: Card) -> int | None:
    """Return the memory that others leave to this run; None if a process may be of either."""
    processes = card.processes or ()
    if card.used_bytes is None or card.total_bytes is None or not _is_told(card):
        return None
    ours = [process for process in processes if process.is_ours]
    if any(process.is_ours is None for process in processes) or any(
        process.used_bytes is None for process in ours
    ):
        return None
    own = sum(process.used_bytes or 0 for process in ours)
    return card.total_bytes - card.used_bytes + own
