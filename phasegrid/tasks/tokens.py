"""Define the special numbers in a sentence that do not stand for words. No torch here: reading text
needs none.
"""

PADDING, START, END, UNKNOWN = range(4)
"""The ids with which every vocabulary begins."""

IGNORE = -100
"""The label of a position that is not scored; torch's own default."""
