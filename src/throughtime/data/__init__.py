"""Read files and encode them for networks, without torch."""
