"""Everything that is drawn and written of one sweep, or of two compared."""
