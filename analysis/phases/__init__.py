"""From tables to phases of learning: rules, labels and how sure they are. Pure."""
