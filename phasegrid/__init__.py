"""phasegrid: load-by-temperature phase diagrams of neural-network training."""

__version__ = "0.1.0"
