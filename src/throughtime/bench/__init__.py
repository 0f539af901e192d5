"""Measures speed on this machine: ours beside torch, ONNX Runtime, JAX and what the processor can do at most.

`cases` lists what is measured, `contestants` who takes part, `measuring` times them in turn and compares their results,
`report` writes the tables.
"""
