"""How trainings that could form one stack run. No torch here."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class StackPlan:
    """The `strategy` of stacks, at most `stack_size` members per stack (None: no limit), and how
    many such stacks fill the device side by side, in `lanes` (None: unknown, so no limit).
    """

    strategy: Literal["auto", "loop", "vmap", "fused", "merged"]
    stack_size: int | None = None
    lanes: int | None = None

    @property
    def share(self) -> float:
        """The part of the device that one stack fills."""
        return 0.0 if self.lanes is None else 1 / self.lanes
