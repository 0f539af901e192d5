"""The first lines that training prints."""

from __future__ import annotations

import torch

from throughtime.nn.sequence_model import SequenceModel
from throughtime.runs import Run
from throughtime.spelling import duration


def first_lines(run: Run, model: SequenceModel) -> list[tuple[str, str]]:
    """Describe the data, the network, the device and the plan."""
    config, plan, data = run.config, run.plan, run.record.data
    network, training = config.network, config.training
    count = sum(parameter.numel() for parameter in model.parameters())
    threads = torch.get_num_threads()
    where = "a CUDA device" if run.device.type == "cuda" else f"{threads} thread{'s' * (threads > 1)} of the CPU"
    if training.processes > 1:
        where = f"{training.processes} processes, each on {where}"
    expected = plan.expected_steps
    steps, passes = f"{expected:,} step{'s' * (expected != 1)}", expected / plan.epoch_steps
    by = f"{training.optimizer}, {training.schedule}, learning rate up to {training.learning_rate * plan.peak:g}"
    length = steps if plan.seconds is None else f"{duration(plan.seconds)} of training, about {steps}"
    return [
        ("data", f"{data.name}; {run.task.data_in_words(data.counts)}"),
        ("network", f"{network.num_layers} x {network.cell}, {network.hidden_size:,} units each; {count:,} parameters"),
        ("runs on", where),
        (
            "plan",
            f"{length} of {plan.batch} sequences ({passes:.2g} epochs); {by}",
        ),
        ("legend", "* marks the best validation so far"),
    ]
