"""Members of a pack to their snapshots and back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from phasegrid.members import Member, read_member, write_member
from phasegrid.snapshots import SNAPSHOT_VERSION, Snapshots, epochs_to_resume


@dataclass(slots=True)
class Saver:
    """Saves members that are not finished and brings them back. `snapshots` None: does nothing.

    Only snapshots written under the same `strategy` are gone on from: another one rounds differently. `_saved` are the epochs
    of which each trial has snapshots.
    """

    snapshots: Snapshots | None
    strategy: str
    _saved: dict[str, set[int]] = field(default_factory=dict)

    @property
    def wanted(self) -> bool:
        """Whether there is a place for snapshots."""
        return self.snapshots is not None

    def resume(
        self, members: Sequence[Member], alike: Sequence[int], device: torch.device
    ) -> list[list[int]]:
        """Bring those of `members` that would train as one stack to where their snapshots left them.

        Returns them as stacks of equal epoch, each in the order of `alike`.
        """
        if self.snapshots is None:
            return [list(alike)]
        keys = [members[i].trial.key for i in alike]
        self._saved |= {key: set(self.snapshots.epochs(key)) for key in keys}
        wanted = epochs_to_resume(keys, self._saved)
        stacks: dict[int, list[int]] = {}
        for i in alike:
            epoch = self._read(members[i], wanted[members[i].trial.key], device)
            stacks.setdefault(epoch, []).append(i)
        return list(stacks.values())

    def save(self, members: Sequence[Member]) -> None:
        """Save all members, then delete their older snapshots: at any moment they have one epoch in common."""
        if self.snapshots is None:
            return
        for member in members:
            tensors, facts = write_member(member)
            meta: dict[str, Any] = {
                "version": SNAPSHOT_VERSION,
                "strategy": self.strategy,
                "member": facts,
            }
            self.snapshots.save(member.trial.key, len(member.history), tensors, meta)
        for member in members:
            key, epoch = member.trial.key, len(member.history)
            self.snapshots.delete(key, self._saved.get(key, set()) - {epoch})
            self._saved[key] = {epoch}

    def forget(self, member: Member) -> None:
        """Delete the snapshots of a member that is finished."""
        if self.snapshots is not None:
            self.snapshots.delete(member.trial.key, self._saved.pop(member.trial.key, set()))

    def _read(self, member: Member, epoch: int, device: torch.device) -> int:
        """Bring a fresh member to an epoch if a snapshot of ours is there; return the epoch it is at."""
        assert self.snapshots is not None
        found = self.snapshots.load(member.trial.key, epoch) if epoch else None
        if found is None:
            return 0
        tensors, meta = found
        facts: Any = meta
        if not isinstance(facts, dict) or facts.get("version") != SNAPSHOT_VERSION:
            return 0
        if facts.get("strategy") != self.strategy:
            return 0
        read_member(member, tensors, facts["member"], device)
        return epoch
