"""The version of phasegrid."""

__version__ = "0.1.0"
