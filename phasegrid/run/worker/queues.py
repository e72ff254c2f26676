"""Let a GPU take work from as many streams at once as there can be lanes. No torch here."""

import os

VARIABLE = "CUDA_DEVICE_MAX_CONNECTIONS"
MOST = 32
"""The most that CUDA allows, and torch's number of streams (`phasegrid.train.lanes`)."""


def open_queues() -> None:
    """Set CUDA's number of queues to the device, which is 8 by itself: more streams share them, and
    then wait for each other. CUDA reads it when it starts in a process, so call this before. What
    the user has set stays.
    """
    os.environ.setdefault(VARIABLE, str(MOST))
