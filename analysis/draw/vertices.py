"""Write the names of the vertices of a complex as the papers do."""

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
LETTERS = {"w": "w", "c": "θ"}


def is_connector(name: str) -> bool:
    """Say whether a vertex is a connector, not a mode."""
    return name.startswith("c")


def vertex_text(name: str) -> str:
    """Return the name of a vertex for readers.

    >>> vertex_text("w0"), vertex_text("c10")
    ('w₀', 'θ₁₀')
    """
    return LETTERS[name[0]] + name[1:].translate(SUBSCRIPTS)
