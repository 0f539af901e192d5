"""A network one step at a time, without torch; it may learn as it runs."""

from throughtime.streaming.optimizers import SGD, Adam, Optimizer
from throughtime.streaming.stream import Stream

__all__ = ["SGD", "Adam", "Optimizer", "Stream"]
