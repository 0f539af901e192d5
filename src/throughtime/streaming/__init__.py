"""Run a network one step at a time without torch, optionally learning online."""

from throughtime.streaming.optimizers import SGD, Adam, Optimizer
from throughtime.streaming.stream import Stream

__all__ = ["SGD", "Adam", "Optimizer", "Stream"]
