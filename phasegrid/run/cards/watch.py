"""Watch the cards of a run: say each finding once, and keep the latest reading in the store."""

import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from phasegrid.errors import StoreError
from phasegrid.fallbacks import fall_back
from phasegrid.keys import Json
from phasegrid.run.cards.card import Card, NodeCards, as_record, card_texts
from phasegrid.run.cards.findings import findings_of
from phasegrid.texts import duration

LOOK_EVERY_S = 5.0
KEEP_EVERY_S = 15.0  # a file of the store is replaced, on object stores at a price
OLD_S = 20.0  # a card that is being lost can make NVML wait
ALL_LOST = "every GPU of the run is lost"
LEAVE_S = 3.0  # that a run waits for a reading under way; then it is abandoned

Read = Callable[[], Sequence[NodeCards] | None]
"""Returns the cards of all nodes; None if they are unknown."""


@dataclass(slots=True)
class CardWatch:
    """What a run knows of its cards. `say` gets each finding once; `keep` gets the readings. `stop`
    is called with the reason if all cards are lost: every further job would be sent to one.

    A finding is said when two readings in a row have it, since the memory of a card and its list of
    processes are not read at the same moment; that a card is lost is said at once.
    """

    read: Read
    say: Callable[[str], None]
    keep: Callable[[Json], None]
    stop: Callable[[str], None] = lambda _why: None
    clock: Callable[[], float] = time.monotonic
    _lines: tuple[str, ...] = ()
    _read_at: float = float("-inf")
    _known: dict[tuple[str, int], Card] = field(default_factory=dict)
    _before: set[tuple[str, int, str]] = field(default_factory=set)
    _said: set[tuple[str, int, str]] = field(default_factory=set)
    _num_kept: int = 0  # cards
    _keep_at: float = float("-inf")

    def lines(self) -> tuple[str, ...]:
        """Return a line for each card; a reading that is old says so."""
        age_s = self.clock() - self._read_at
        old = f" ({duration(age_s)} ago)" if self._lines and age_s > OLD_S else ""
        return tuple(f"{line}{old}" for line in self._lines)

    def look(self) -> bool:
        """Read the cards, and tell what is new; return False if none were ever known."""
        found = self.read()
        if found is None:
            return self._read_at > float("-inf")
        completed = [self._completed(node) for node in _by_machine(found)]
        nodes = [node for node in completed if node.cards]
        self._lines = tuple(card_texts(nodes))
        self._read_at = now = self.clock()
        is_news = self._tell(nodes)
        cards = [card for node in nodes for card in node.cards]
        if cards and len(nodes) == len(completed) and all(card.lost for card in cards):
            self.stop(ALL_LOST)
        is_news |= len(cards) != self._num_kept
        if cards and (is_news or now >= self._keep_at):
            self._num_kept, self._keep_at = len(cards), now + KEEP_EVERY_S
            try:
                self.keep(record_of(nodes, datetime.now(UTC)))
            except StoreError as error:
                fall_back("`phasegrid status` does not show the GPUs of this run", error)
        return True

    def _completed(self, node: NodeCards) -> NodeCards:
        """Add the cards that are not listed any more, and what was known of a card that is lost."""
        cards = list(node.cards)
        listed = {card.uuid for card in cards} - {None}
        for (host, index), before in self._known.items():
            if host != node.host or before.uuid in listed:
                continue
            there = next((card for card in cards if card.index == index), None)
            if there is None or there.lost is not None:
                why = "it is not listed any more" if there is None else there.lost
                cards = [card for card in cards if card is not there]
                cards.append(Card(index, before.uuid, before.name, lost=why))
        self._known |= {(node.host, card.index): card for card in cards}
        return replace(node, cards=tuple(sorted(cards, key=lambda card: card.index)))

    def _tell(self, nodes: Sequence[NodeCards]) -> bool:
        found = {(one.host, one.index, one.kind): one for one in findings_of(nodes)}
        certain = {key for key in found if key in self._before or found[key].kind == "lost"}
        news = sorted(certain - self._said)
        for key in news:
            self.say(found[key].text)
        self._said |= certain
        self._before = set(found)
        return bool(news)


def _by_machine(nodes: Sequence[NodeCards]) -> list[NodeCards]:
    """Join nodes that are on one machine; each of its cards is listed once."""
    cards: dict[str, dict[tuple[int, str | None], Card]] = {}
    for node in nodes:
        own = cards.setdefault(node.host, {})
        own |= {(card.index, card.uuid): card for card in node.cards}
    return [NodeCards(host, tuple(own.values())) for host, own in cards.items()]


def record_of(nodes: Sequence[NodeCards], now: datetime) -> Json:
    """Return a reading as the store keeps it."""
    return {"seen_at": now.isoformat(), "nodes": [as_record(node) for node in nodes]}


@contextmanager
def watched(watch: CardWatch, every_s: float = LOOK_EVERY_S) -> Iterator[CardWatch]:
    """Look every `every_s` in a thread, so that a card that does not answer delays nothing."""
    over = threading.Event()

    def look_on() -> None:
        while not over.is_set() and watch.look():
            over.wait(every_s)

    context = contextvars.copy_context()  # fallbacks are reported to the run
    thread = threading.Thread(target=context.run, args=(look_on,), name="cards", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join(LEAVE_S)
