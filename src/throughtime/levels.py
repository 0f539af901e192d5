"""The levels of tokenization; imports nothing, so that the command line's help loads quickly."""

UNITS = {"char": "character", "word": "word", "bpe": "byte pair"}
"""The name of a token at each level."""

LEVELS = tuple(UNITS)
