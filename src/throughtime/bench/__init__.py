"""Measure speed on this machine, compared with torch, ONNX Runtime, JAX and the processor's peak.

`cases` lists the cases and `contestants` the libraries to compare. `measuring` times the contestants in turn and
compares their results, and `report` writes the tables.
"""
