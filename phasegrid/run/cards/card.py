"""What is known of the GPUs of a machine at one moment, as values, as JSON and as text."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from phasegrid.keys import Json

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Process:
    """A process that computes on a card; of processes of others no more is known. `is_ours` means
    that this run has started it; None means that this cannot be told.
    """

    pid: int
    used_bytes: int | None = None
    is_ours: bool | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU at one moment; None is what NVML cannot tell.

    `index` counts the cards of its machine from 0, as ``nvidia-smi`` does. `slowed_by` holds
    ``heat`` and ``power brake``. `uncorrected_errors` are those of its memory since its driver was
    loaded. `num_foreign` is how many processes of others compute on it, at least. A card that
    `is_split` (MIG) is shared out among users by intention; NVML tells neither its use nor whose
    its memory is, which is that of the instances that this process was given, if it names them.
    `lost` says why a card cannot be used any more.
    """

    index: int
    uuid: str | None = None
    name: str | None = None
    use_percent: int | None = None
    used_bytes: int | None = None
    total_bytes: int | None = None
    temperature_c: int | None = None
    slows_at_c: int | None = None
    slowed_by: tuple[str, ...] = ()
    uncorrected_errors: int | None = None
    processes: tuple[Process, ...] | None = None
    num_foreign: int | None = None
    is_split: bool = False
    lost: str | None = None


@dataclass(frozen=True, slots=True)
class NodeCards:
    """The cards of one machine; none if NVML cannot tell them."""

    host: str
    cards: tuple[Card, ...]


def as_record(node: NodeCards) -> Json:
    """Return the cards of a machine as JSON."""
    return {"host": node.host, "cards": [_plain(card) for card in node.cards]}


def from_record(record: Mapping[str, Any]) -> NodeCards:
    """Read what `as_record` wrote; ignore fields of newer releases.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: if it is something else.
    """
    known = {spec.name for spec in fields(Card)}
    cards = []
    for found in record["cards"]:
        given = {name: value for name, value in found.items() if name in known}
        processes = given.get("processes")
        if processes is not None:
            own = {spec.name for spec in fields(Process)}
            told = [{key: p[key] for key in own & p.keys()} for p in processes]
            given["processes"] = tuple(Process(**process) for process in told)
        card = Card(**{**given, "slowed_by": tuple(given.get("slowed_by", ()))})
        _check_numbers(card)
        cards.append(card)
    return NodeCards(str(record["host"]), tuple(cards))


def card_name(card: Card, host: str) -> str:
    """Name a card so that nobody takes another for it.

    >>> card_name(Card(1, "GPU-5a", "NVIDIA H200"), "node-3")
    'GPU 1 of node-3 (NVIDIA H200, GPU-5a)'
    """
    known = ", ".join(text for text in (card.name, card.uuid) if text)
    return f"GPU {card.index} of {host}" + (f" ({known})" if known else "")


def card_text(card: Card, host: str | None) -> str:
    """Write the use and memory of a card on one line; `host` is left out if None.

    >>> card_text(Card(0, use_percent=97, used_bytes=61 * GIB, total_bytes=140 * GIB), "node-3")
    'GPU 0 of node-3: 97% busy, 61.0 of 140.0 GiB'
    >>> card_text(Card(0, is_split=True), None), card_text(Card(0, lost="GPU is lost"), None)
    ('GPU 0: use unknown, memory unknown, split (MIG)', 'GPU 0: lost')
    """
    of = "" if host is None else f" of {host}"
    if card.lost is not None:
        return f"GPU {card.index}{of}: lost"
    use = "use unknown" if card.use_percent is None else f"{card.use_percent}% busy"
    memory = "memory unknown"
    if card.used_bytes is not None and card.total_bytes is not None:
        memory = f"{card.used_bytes / GIB:.1f} of {card.total_bytes / GIB:.1f} GiB"
    more = [f"{card.temperature_c} C"] if card.temperature_c is not None else []
    more += [f"slowed by {' and '.join(card.slowed_by)}"] if card.slowed_by else []
    more += ["split (MIG)"] if card.is_split else []
    return f"GPU {card.index}{of}: {', '.join([use, memory, *more])}"


def card_texts(nodes: Sequence[NodeCards]) -> Iterator[str]:
    """Yield a line for each card; the machine is named where there are several."""
    for node in nodes:
        for card in node.cards:
            yield card_text(card, node.host if _several(nodes) else None)


def _check_numbers(card: Card) -> None:
    """Refuse what only looks like a card, so that whoever shows one need not."""
    numbers = (card.use_percent, card.used_bytes, card.total_bytes, card.temperature_c)
    counts = (card.index, card.uncorrected_errors or 0, card.num_foreign or 0)
    held = [process.used_bytes for process in card.processes or ()]
    if not all(number is None or type(number) is int for number in (*numbers, *counts, *held)):
        raise TypeError(f"GPU {card.index!r}: a number is none")


def _several(nodes: Collection[NodeCards]) -> bool:
    return len({node.host for node in nodes}) > 1


def _plain(card: Card) -> dict[str, Any]:
    plain = asdict(card)
    plain["slowed_by"] = list(card.slowed_by)
    if card.processes is not None:
        plain["processes"] = [asdict(process) for process in card.processes]
    return plain
