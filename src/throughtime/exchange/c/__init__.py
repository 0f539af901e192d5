"""Export models as C source."""
