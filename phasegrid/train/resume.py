"""Write the members of a pack to snapshots, and restore them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from phasegrid.train.member import TrialState, read_member, write_member
from phasegrid.train.publishing import Publisher
from phasegrid.train.snapshots import SNAPSHOT_VERSION, Snapshots, epochs_to_resume

Found = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""The tensors and the JSON facts of a snapshot."""


@dataclass(slots=True)
class _Company:
    """Trials that began as one stack: their keys in order. `waiting` are those whose result is
    wanted and not stored yet.
    """

    keys: tuple[str, ...]
    waiting: set[str]


@dataclass(slots=True)
class Saver:
    """Saves unfinished members and restores them. With `snapshots` None it does nothing.

    Only snapshots of the same `strategy` are used: another one rounds differently. With
    `same_stacks` a trial resumes only together with all members that its stack had at the time of
    the snapshot. With a `publisher`, a snapshot counts only if everything that its trial had
    published by then is still there. `_saved` holds the epochs of each trial's snapshots,
    `_company` its company.
    """

    snapshots: Snapshots | None
    strategy: str
    same_stacks: bool = False
    publisher: Publisher | None = None
    _saved: dict[str, set[int]] = field(default_factory=dict)
    _company: dict[str, _Company] = field(default_factory=dict)

    @property
    def wanted(self) -> bool:
        """Whether snapshots can be stored at all."""
        return self.snapshots is not None

    def resume(
        self,
        members: Mapping[int, TrialState],
        alike: Sequence[int],
        wanted: Collection[int],
        device: torch.device,
    ) -> list[list[int]]:
        """Restore those of `members` that would train as one stack from their snapshots.

        Returns them as stacks of equal epoch, each in the order of `alike`. Members whose result is
        not `wanted` and that had left their stack are not returned.
        """
        if self.snapshots is None:
            return [list(alike)]
        places = {members[i].trial.key: i for i in alike}
        waiting = {key for key, i in places.items() if i in wanted}
        self._company |= dict.fromkeys(places, _Company(tuple(places), waiting))
        self._saved |= {key: set(self.snapshots.epochs(key)) for key in places}
        if self.same_stacks:
            return self._resume_stacks(members, places, device)
        epochs = epochs_to_resume(list(places), self._saved)
        stacks: dict[int, list[int]] = {}
        for key, i in places.items():
            found = self._load(key, epochs[key])
            if found is not None:
                read_member(members[i], found[0], found[1]["member"], device)
            stacks.setdefault(len(members[i].history), []).append(i)
        return list(stacks.values())

    def save(self, stacks: Sequence[Sequence[TrialState]]) -> None:
        """Save all members of some stacks, then delete older snapshots of their company. At any
        moment, all of them have a common epoch.
        """
        if self.snapshots is None:
            return
        for stack in stacks:
            keys = [member.trial.key for member in stack]
            for member in stack:
                tensors, facts = write_member(member)
                meta: dict[str, Any] = {
                    "version": SNAPSHOT_VERSION,
                    "strategy": self.strategy,
                    "company": list(self._company[member.trial.key].keys),
                    "stack": keys,
                    "member": facts,
                }
                self.snapshots.save(member.trial.key, len(member.history), tensors, meta)
        now = {member.trial.key: {len(member.history)} for stack in stacks for member in stack}
        for company in [self._company[key] for key in now]:
            for key in company.keys:
                if key in now or key not in company.waiting:  # else it ended, and could not be kept
                    self._keep_only(key, now.get(key, set()))

    def forget(self, member: TrialState) -> None:
        """Mark the result of a member as stored; if it was the last one, delete its company's
        snapshots.
        """
        if self.snapshots is None:
            return
        company = self._company[member.trial.key]
        company.waiting.discard(member.trial.key)
        if not company.waiting:
            for key in company.keys:
                self._keep_only(key, set())

    def _keep_only(self, key: str, epochs: set[int]) -> None:
        assert self.snapshots is not None
        self.snapshots.delete(key, self._saved.get(key, set()) - epochs)
        self._saved[key] = epochs

    def _resume_stacks(
        self, members: Mapping[int, TrialState], places: Mapping[str, int], device: torch.device
    ) -> list[list[int]]:
        """Resume from the latest epoch for which every stack with a wanted trial is complete, or
        from the beginning.
        """
        waiting = [key for key in places if key in self._company[key].waiting]
        for epoch in sorted(set.intersection(*(self._saved[k] for k in waiting)), reverse=True):
            stacks = self._stacks_at(epoch, waiting)
            if stacks is None:
                continue
            for found in stacks:
                for key, (tensors, facts) in found.items():
                    read_member(members[places[key]], tensors, facts["member"], device)
            return [[places[key] for key in found] for found in stacks]
        return [list(places.values())]

    def _stacks_at(self, epoch: int, waiting: Sequence[str]) -> list[dict[str, Found]] | None:
        """Return the whole stacks of the present company that hold these trials after an epoch;
        None if a part is missing.
        """
        stacks: list[dict[str, Found]] = []
        left = list(waiting)
        while left:
            found = self._stack_of(left[0], epoch)
            if found is None:
                return None
            stacks.append(found)
            left = [key for key in left if key not in found]
        return stacks

    def _stack_of(self, key: str, epoch: int) -> dict[str, Found] | None:
        company = self._company[key].keys
        first = self._load(key, epoch)
        if first is None or first[1].get("company") != list(company):
            return None
        found: dict[str, Found] = {}
        for name in first[1]["stack"]:
            snapshot = first if name == key else self._load(name, epoch)
            if snapshot is None or any(
                snapshot[1].get(what) != first[1][what] for what in ("company", "stack")
            ):
                return None
            found[name] = snapshot
        return found

    def _load(self, key: str, epoch: int) -> Found | None:
        """Return a snapshot that this version can read, if there is one."""
        assert self.snapshots is not None
        found = self.snapshots.load(key, epoch) if epoch else None
        if found is None:
            return None
        tensors, meta = found
        facts: Any = meta
        if not isinstance(facts, dict) or facts.get("version") != SNAPSHOT_VERSION:
            return None
        if facts.get("strategy") != self.strategy:
            return None
        lost = self.publisher is not None and not all(
            self.publisher.has(key, name) for name in facts["member"]["published"]
        )
        return None if lost else (tensors, facts)
