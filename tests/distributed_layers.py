"""A program of two processes that train and run layers under torch's distributed wrappers; prints each case's error.

Usage: python distributed_layers.py FILE, where FILE is a path for the processes' rendezvous.
"""

import copy
import json
import os
import sys
import traceback

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_module, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import throughtime
from throughtime.language import affine, sigmoid, tanh


@throughtime.cell
def own_cell(x, h):
    f = sigmoid(affine("forget", x, h))
    return f * h + (1 - f) * tanh(affine("candidate", x, f * h))


class Net(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.out = layer, nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.layer(x)[0])


def trained(model, x, rows):
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(x[:, rows]).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        return model(x)


def sharded(model):
    fully_shard(model.layer)
    return fully_shard(model)


WRAPPERS = {
    "DistributedDataParallel": DistributedDataParallel,
    "FullyShardedDataParallel": lambda model: FullyShardedDataParallel(model, device_id=torch.device("cpu")),
    "fully_shard": sharded,
}


def train(wrap, kind, rank):
    torch.manual_seed(0)
    layer = throughtime.accelerate(nn.LSTM(3, 4)) if kind == "accelerated" else throughtime.Recurrent(own_cell, 3, 4)
    model, x = Net(layer), torch.randn(5, 4, 3)
    expected = trained(copy.deepcopy(model), x, slice(None))
    found = trained(wrap(model), x, slice(2 * rank, 2 * rank + 2))
    torch.testing.assert_close(found, expected)


def outcome(layer, x):
    try:
        y = layer(x)[0]
    except Exception as error:
        return type(error).__name__
    return y.full_tensor() if isinstance(y, DTensor) else y


def take_dtensors(name, mesh):
    torch.manual_seed(0)
    theirs = getattr(nn, name)(3, 4)
    ours = throughtime.accelerate(copy.deepcopy(theirs))
    x = distribute_tensor(torch.randn(5, 2, 3), mesh, [Replicate()])
    for distribute in (False, True):
        layers = [distribute_module(layer, mesh) if distribute else layer for layer in (theirs, ours)]
        expected, found = [outcome(layer, x) for layer in layers]
        assert type(found) is type(expected), (found, expected)
        assert found == expected if isinstance(found, str) else torch.allclose(found, expected, atol=1e-6)


def reject_dtensors(mesh):
    x = distribute_tensor(torch.randn(5, 2, 3), mesh, [Replicate()])
    assert isinstance(outcome(throughtime.Recurrent(own_cell, 3, 4), x), str)


def main(rank):
    distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    cases = {
        f"{name} {kind}": (train, wrap, kind, rank)
        for name, wrap in WRAPPERS.items()
        for kind in ("accelerated", "Recurrent")
    }
    cases |= {f"DTensor {name}": (take_dtensors, name, mesh) for name in ("RNN", "LSTM", "GRU")}
    cases["DTensor Recurrent"] = reject_dtensors, mesh
    found = {}
    for case, (function, *arguments) in cases.items():
        try:
            function(*arguments)
            found[case] = ""
        except Exception:
            found[case] = traceback.format_exc()
        distributed.barrier()
    distributed.destroy_process_group()
    return found


if __name__ == "__main__":
    child = os.fork()  # a second process that need not import torch again
    try:
        found = main(int(child == 0))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    if child == 0:
        os._exit(int(any(found.values())))
    status = os.waitpid(child, 0)[1]
    print(json.dumps(found | {"the other process": str(status or "")}))
