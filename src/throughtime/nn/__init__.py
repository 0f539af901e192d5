"""torch modules: recurrent layers for any cell, drop-in layers and sequence models."""
