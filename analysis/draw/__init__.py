"""From tables to Axes: every figure. Nothing is computed here but where ink goes."""
