"""Read files and encode them for networks. Needs no torch."""
