"""From YAML or a mapping to a `Sweep`: everything resolved, every mistake found at once and told
with its place.
"""
