"""Measure speed on this machine, compared with torch, ONNX Runtime, JAX and the processor's peak.

`cases` lists what to measure and `contestants` who takes part, `measuring` times them in turn and compares their
results, and `report` writes the tables.
"""
