"""Do the jobs of a pack: read inputs, train, measure, store."""
