"""Gradients through time: how they flow, how far they reach, and how to improve them."""
