"""Convert layers from and to torch."""
