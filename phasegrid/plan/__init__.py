"""From a sweep to jobs, packs and predicted costs. Pure: no disk, no clock, no torch."""
