"""Train packs of trials: weights and histories are the result."""
