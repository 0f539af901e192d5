"""Studies: sets of runs that answer one question, such as which cell is best, or which options."""
