"""All contestants."""

from __future__ import annotations

from collections.abc import Sequence

from throughtime.bench.contestant import Contestant
from throughtime.bench.ours import AllResiduals, BuiltIn, Checkpointed, Layer, Padded, Stepwise, Thawed
from throughtime.bench.peer_jax import JaxScan
from throughtime.bench.peer_onnxruntime import OnnxRuntime
from throughtime.bench.peer_torch import TorchCell, TorchLayer, TorchLoop
from throughtime.bench.text import TorchTraining, TrainCommand

# The first contestant that supports a case is compared with the others; all results must match torch's.
CONTESTANTS: Sequence[Contestant] = (
    Layer(),
    Stepwise(),
    Checkpointed(),
    TrainCommand(),
    TorchLayer(),
    TorchLoop(),
    TorchCell(),
    TorchTraining(),
    OnnxRuntime(),
    JaxScan(),
    BuiltIn(),
    Padded(),
    AllResiduals(),
    Thawed(),
)
