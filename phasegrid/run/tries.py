"""Count failed attempts, and decide whether to try again."""

from collections import Counter
from dataclasses import dataclass, field

from phasegrid.config.types import Retries

CRASHES = 1
"""How often a job that crashed its process is tried again unchanged. A crash that the job causes
will happen again, and five tries would cost five processes. An accidental crash (a memory fault)
will not.
"""


@dataclass(slots=True)
class Tries:
    """The failures so far of jobs and packs, by their key and by the kind of failure."""

    retries: Retries
    _used: Counter[tuple[str, str]] = field(default_factory=Counter)

    def may_retry(self, key: str, kind: str) -> bool:
        """Count a failure; say whether what failed may be tried again."""
        self._used[key, kind] += 1
        return self._used[key, kind] <= self._limit(kind)

    def made(self, key: str, kind: str) -> int:
        """Return how often something has failed in this way."""
        return self._used[key, kind]

    def leave_one(self, key: str, kind: str) -> None:
        """Allow one more try: another failure of this kind is final."""
        self._used[key, kind] = self._limit(kind)

    def _limit(self, kind: str) -> int:
        if kind == "crash":
            return min(CRASHES, self.retries.infra)
        return self.retries.infra if kind in ("infra", "oom") else self.retries.app
