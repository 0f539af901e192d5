"""The levels at which a text is read; needs nothing, so that a command's help can speak of them."""

UNITS = {"char": "character", "word": "word", "bpe": "byte pair"}
"""What a symbol of each level is called."""

LEVELS = tuple(UNITS)
