"""The report: one self-contained HTML file that shows what happens inside a network as it reads data."""
