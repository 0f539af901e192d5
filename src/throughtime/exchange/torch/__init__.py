"""Layers from and to torch."""
