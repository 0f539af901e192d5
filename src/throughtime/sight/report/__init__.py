"""The report: one HTML file, with nothing to load from anywhere, that shows what a network does with a text."""
