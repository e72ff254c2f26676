"""Packs that wait for jobs that are not stored yet."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from phasegrid.packs import Pack


@dataclass(slots=True)
class Waiting:
    """Waiting packs by their keys, each with the jobs for which it waits, and for each job the
    packs that wait for it.
    """

    _packs: dict[str, tuple[Pack, set[str]]] = field(default_factory=dict)
    _by_need: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, pack: Pack, missing: Collection[str]) -> None:
        """Let a pack wait for the jobs that it misses."""
        self._packs[pack.key] = pack, set(missing)
        for key in missing:
            self._by_need[key].append(pack.key)

    def __contains__(self, key: str) -> bool:
        """Say whether something waits for a job."""
        return key in self._by_need

    def packs(self) -> Iterator[Pack]:
        """Yield every pack that waits."""
        return (pack for pack, _ in self._packs.values())

    def stored(self, key: str) -> Iterator[Pack]:
        """Yield the packs that waited only for this job; they wait no longer."""
        for name in self._by_need.pop(key, ()):
            if name not in self._packs:
                continue
            pack, missing = self._packs[name]
            missing.discard(key)
            if not missing:
                del self._packs[name]
                yield pack

    def in_vain(self, key: str) -> Iterator[Pack]:
        """Remove and yield each pack that waits for this job, which will have no result, including
        packs that are added during the iteration.
        """
        while names := self._by_need.pop(key, None):
            for name in names:
                if name in self._packs:
                    yield self._packs.pop(name)[0]
