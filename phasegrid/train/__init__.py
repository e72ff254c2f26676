"""From a pack of trials to weights and histories."""
