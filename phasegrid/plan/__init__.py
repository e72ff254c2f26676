"""Turn a sweep into jobs, packs and predicted costs. Pure: no disk, no clock, no torch."""
