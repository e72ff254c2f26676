"""Show the reading of cards that a run has kept in the store, with its age."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from phasegrid.fallbacks import fall_back
from phasegrid.run.cards.card import NodeCards, as_record, card_texts, from_record
from phasegrid.run.cards.findings import findings_of
from phasegrid.store.store import Store
from phasegrid.texts import duration


@dataclass(frozen=True, slots=True)
class Kept:
    """The latest reading of a run of a sweep, by its driver's clock."""

    seen_at: datetime
    nodes: tuple[NodeCards, ...]


def read_kept(store: Store, sweep: str) -> Kept | None:
    """Return the latest reading of a sweep's runs; None if none was kept, or it cannot be read."""
    record = store.notes.read_cards(sweep)
    if record is None:
        return None
    try:
        assert isinstance(record, dict)
        nodes = tuple(map(from_record, record["nodes"]))
        return Kept(datetime.fromisoformat(record["seen_at"]).astimezone(UTC), nodes)
    except (AssertionError, ValueError, TypeError, KeyError, AttributeError) as error:
        fall_back(f"the GPUs of {sweep} are not shown: what is kept of them is damaged", error)
        return None


def as_json(kept: Kept | None, now: datetime) -> dict[str, Any] | None:
    """Return a reading as ``status --json`` has it."""
    if kept is None:
        return None
    return {
        "seen_at": kept.seen_at.isoformat(),
        "age_s": round((now - kept.seen_at).total_seconds(), 1),
        "nodes": [as_record(node) for node in kept.nodes],
        "findings": [finding.text for finding in findings_of(kept.nodes)],
    }


def lines_of(state: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield lines about the cards from what `as_json` returned."""
    if state is None:
        return
    nodes = [from_record(node) for node in state["nodes"]]
    ago = duration(max(0.0, state["age_s"]))
    yield from (f"  {text} ({ago} ago)" for text in card_texts(nodes))
    yield from (f"  warning: {text}" for text in state["findings"])
