"""Speed up sb3-contrib's recurrent agents: run sequences in one call instead of step by step, and skip padding."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from throughtime.nn import dropin

_POLICIES = "sb3_contrib.common.recurrent.policies"
_BUFFERS = "sb3_contrib.common.recurrent.buffers"
_AGENTS = "sb3_contrib.ppo_recurrent.ppo_recurrent"
_METHOD = "_process_sequence"
_SAMPLES = "_get_samples"
_LENGTHS = "lengths_of_sequences"


def is_agent(model: Any) -> bool:
    """Return whether `model` is a recurrent agent of sb3-contrib, with a policy and a rollout buffer."""
    agents = sys.modules.get(_AGENTS)
    return agents is not None and isinstance(model, agents.RecurrentPPO)


def accelerate_policy(module: nn.Module) -> bool:
    """Replace `process_sequence` of a recurrent sb3-contrib policy, if it is sb3-contrib's own.

    Returns:
        Whether the module was changed.
    """
    policies = sys.modules.get(_POLICIES)
    if policies is None or not isinstance(module, policies.RecurrentActorCriticPolicy):
        return False
    own = getattr(type(module), _METHOD) is policies.RecurrentActorCriticPolicy._process_sequence
    if not own or _METHOD in vars(module):
        return False
    vars(module)[_METHOD] = process_sequence
    return True


def restore_policy(module: nn.Module) -> None:
    """Restore sb3-contrib's own method."""
    if vars(module).get(_METHOD) is process_sequence:
        del vars(module)[_METHOD]


def accelerate_buffer(buffer: Any) -> str | None:
    """Make a recurrent rollout buffer of sb3-contrib pass the lengths of its padded sequences to the policy.

    Returns:
        The reason why the buffer was not changed; None if it was changed.
    """
    buffers: Any = sys.modules[_BUFFERS]
    method = getattr(type(buffer), _SAMPLES)
    if method not in (buffers.RecurrentRolloutBuffer._get_samples, buffers.RecurrentDictRolloutBuffer._get_samples):
        return f"{type(buffer).__name__} has its own {_SAMPLES}, which may pad differently"
    vars(buffer)[_SAMPLES] = functools.partial(samples_with_lengths, method, buffer)
    return None


def knows_lengths(buffer: Any) -> bool:
    """Return whether `accelerate_buffer` has changed a buffer."""
    return getattr(vars(buffer).get(_SAMPLES), "func", None) is samples_with_lengths


def restore_buffer(buffer: Any) -> None:
    """Restore sb3-contrib's own method."""
    if knows_lengths(buffer):
        del vars(buffer)[_SAMPLES]


def samples_with_lengths(method: Callable[..., Any], buffer: Any, *args: Any, **options: Any) -> Any:
    """Return a buffer's minibatch, with the lengths of its sequences as an attribute of the episode starts.

    The policy doesn't receive the mask of valid steps, but it does receive this tensor of episode starts.
    """
    samples = method(buffer, *args, **options)
    rows = samples.lstm_states.pi[0].shape[1]
    setattr(samples.episode_starts, _LENGTHS, samples.mask.reshape(rows, -1).sum(1).long())
    return samples


def process_sequence(
    features: Tensor, lstm_states: tuple[Tensor, Tensor], episode_starts: Tensor, lstm: nn.LSTM
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run a policy's LSTM over sequences, setting the states to zero where an episode starts.

    Args:
        features: `[B * T, features]`, the sequences one after another.
        lstm_states: the initial hidden and cell state, `[layers, B, hidden]` each.
        episode_starts: `[B * T]`, 1 at the first step of an episode, otherwise 0.
        lstm: the layer.

    Returns:
        The outputs `[B * T, hidden]`, 0 for padding if the lengths of sequences are known, and the final states.
    """
    if not isinstance(lstm, dropin.LSTM):  # restored, or never replaced
        policies: Any = sys.modules[_POLICIES]
        return policies.RecurrentActorCriticPolicy._process_sequence(features, lstm_states, episode_starts, lstm)  # type: ignore[no-any-return]
    rows = lstm_states[0].shape[1]
    starts = episode_starts.reshape(rows, -1)
    steps = starts.shape[1]
    hidden, cell = lstm_states
    # Rollouts are cut where episodes start, so starts are usually at the first step, which needs no reset in the loop.
    if bool(starts[:, 0].any()):
        kept = (1.0 - starts[:, 0])[:, None]
        hidden, cell = kept * hidden, kept * cell
    within = steps > 1 and bool(starts[:, 1:].any())
    lengths: Tensor | None = getattr(episode_starts, _LENGTHS, None)
    if lengths is not None and not within and int(lengths.min()) < steps:
        indices = torch.arange(rows * steps, device=features.device).view(rows, steps)
        taken = pack_padded_sequence(indices, lengths.cpu(), batch_first=True, enforce_sorted=False)
        packed, final = lstm(taken._replace(data=features[taken.data]), (hidden, cell))
        output = features.new_zeros(rows * steps, packed.data.shape[1])
        return output.index_copy(0, taken.data, packed.data), final
    x = features.reshape(rows, steps, lstm.input_size).transpose(0, 1)
    output, final = lstm(x, (hidden, cell), reset=starts.T if within else None)
    return output.transpose(0, 1).flatten(0, 1), final
