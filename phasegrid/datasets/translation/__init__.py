"""Sentence pairs for machine translation."""
