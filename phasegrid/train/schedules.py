"""The learning rate over time, as a factor of the recipe's `lr`. No torch here."""

import math

from phasegrid.train.recipe import Schedule


def schedule_factor(schedule: Schedule, update: int, epoch: int, total_updates: int) -> float:
    """Return the factor of `lr` for one update, counted from 0 over the whole training of
    `total_updates`, in `epoch`.

    With w = `warmup_updates`, u = update - w and U = total_updates - w:

    - warm-up, update < w: (update + 1) / w, times the step schedule's factor if that is the
      schedule;
    - constant: 1; step: `factor` to the number of `at_epochs` that are <= `epoch` (from 0);
    - cosine: final + (1 - final) (1 + cos(pi u/U)) / 2; linear: 1 - (1 - final) u/U. Both would
      reach `final` at u = U, one update after the last;
    - inverse_sqrt (Vaswani et al. 2017, eq. 3, scaled to a peak of 1): n/w for n <= w, then
      sqrt(w/n), with n = update + 1 and w at least 1.

    >>> [schedule_factor(Schedule("linear"), u, u // 2, 4) for u in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    warmup = schedule.warmup_updates
    if schedule.name == "inverse_sqrt":
        peak = max(warmup, 1)
        return min((update + 1) / peak, math.sqrt(peak / (update + 1)))
    ramp = min(1.0, (update + 1) / warmup) if warmup else 1.0
    if schedule.name == "step":
        return ramp * math.prod(schedule.factor for at in schedule.at_epochs if at <= epoch)
    if schedule.name == "constant" or update < warmup:
        return ramp
    progress = (update - warmup) / (total_updates - warmup)
    if schedule.name == "linear":
        return 1 - (1 - schedule.final) * progress
    return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * progress)) / 2
