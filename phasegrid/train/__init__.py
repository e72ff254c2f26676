"""Train packs of trials; the results are weights and histories."""
