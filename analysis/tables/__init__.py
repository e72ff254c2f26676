"""Turn a store into tidy tables, one per quantity."""
