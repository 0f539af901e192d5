"""The first lines that training prints."""

from __future__ import annotations

import torch

from throughtime.nn.sequence_model import SequenceModel
from throughtime.runs import Run
from throughtime.spelling import counted, duration
from throughtime.tasks.streams import StreamTask
from throughtime.training.run_config import Plan

_MEANINGS = "training loss: the mean since the line before; * marks the best validation so far"


def first_lines(run: Run, model: SequenceModel, held_out: int) -> list[tuple[str, str]]:
    """Describe the data, the network, the device and the plan.

    Args:
        run: the run.
        model: its network.
        held_out: the number of loss terms in all validation data.
    """
    config, plan, data = run.config, run.plan, run.record.data
    training = config.training
    count = sum(parameter.numel() for parameter in model.parameters())
    threads = torch.get_num_threads()
    where = "a CUDA device" if run.device.type == "cuda" else f"{counted(threads, 'thread')} of the CPU"
    if training.processes > 1:
        where = f"{training.processes} processes, each on {where}"
    passes = plan.expected_steps / plan.epoch_steps
    by = f"{training.optimizer}, {training.schedule}, learning rate up to {training.learning_rate * plan.peak:g}"
    epochs = f"{passes:.2g}" if passes < 10 else f"{passes:,.0f}"
    reads = []
    if plan.validate_terms < held_out:
        reads.append(f"only {plan.validate_terms:,} of {counted(held_out, run.task.unit)}")
    if isinstance(run.task, StreamTask):
        reads.append(f"{counted(plan.batch, 'parallel stream')}, the final one a single stream")
    part = f"; validations during training read {', in '.join(reads)}" if reads else ""
    return [
        ("data", f"{data.name}; {run.task.data_in_words(data.counts)}"),
        ("network", f"{config.network.layers_in_words}; {count:,} parameters"),
        ("runs on", where),
        ("plan", f"{_length(plan)} of {counted(plan.batch, 'sequence')} ({epochs} epoch{'s' * (epochs != '1')}); {by}"),
        ("legend", f"loss: {run.task.loss_in_words}; {_MEANINGS}{part}"),
    ]


def _length(plan: Plan) -> str:
    """Describe when training ends."""
    expected = counted(plan.expected_steps, "step")
    if plan.seconds is None:
        return expected
    if plan.steps is None:
        return f"{duration(plan.seconds)} of training, about {expected}"
    return (
        f"{counted(plan.steps, 'step')} or {duration(plan.seconds)} of training, whichever ends first, about {expected}"
    )
