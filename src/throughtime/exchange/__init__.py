"""Models in and out of other systems."""
