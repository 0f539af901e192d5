"""A network one step at a time, without torch; it may learn as it runs."""

from throughtime.streaming.stream import Stream as Stream
