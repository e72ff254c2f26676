"""Draw and write all figures and tables of one sweep, or of a comparison of two."""
