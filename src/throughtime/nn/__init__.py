"""torch modules: recurrent layers of any cell, the drop-in layers, the language model."""
