"""Which of the processes that train together this one is, as torchrun, SLURM and Lightning say it."""

import os


def rank() -> int:
    """The number of this process, 0 for the first one: it alone prints and writes."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdecimal() and (name != "SLURM_PROCID" or "SLURM_NTASKS" in os.environ):
            return int(os.environ[name])
    return 0
