"""From a store to tidy tables, one a quantity."""
