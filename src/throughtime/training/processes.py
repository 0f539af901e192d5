"""The rank of this process, as set by torchrun, SLURM or Lightning."""

import os


def rank() -> int:
    """Return the rank of this process; only rank 0 prints and writes files."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdecimal() and (name != "SLURM_PROCID" or "SLURM_NTASKS" in os.environ):
            return int(os.environ[name])
    return 0
