"""Draw every figure from tables onto Axes. Only positions of ink are computed here."""
