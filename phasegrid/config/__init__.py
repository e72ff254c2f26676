"""Turn YAML or a mapping into a resolved `Sweep`, or report every mistake at once, with its
place.
"""
