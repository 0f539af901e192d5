"""Gradients through time: how they flow, how far they reach, what to do about it."""
