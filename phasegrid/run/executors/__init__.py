"""Where packs are done: here, or on Ray."""
