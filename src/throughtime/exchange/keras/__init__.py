"""Keras: read its files, and run its layers on the engines."""
