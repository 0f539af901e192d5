"""Keras support: read its files, and run its layers on throughtime's engines."""
