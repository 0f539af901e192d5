"""Speed up sb3-contrib's recurrent policies: run sequences with episode starts in one call, not step by step."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from throughtime.nn import dropin

_POLICIES = "sb3_contrib.common.recurrent.policies"
_METHOD = "_process_sequence"


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
        The outputs `[B * T, hidden]` and the final states.
    """
    if not isinstance(lstm, dropin.LSTM):  # restored, or never replaced
        policies: Any = sys.modules[_POLICIES]
        return policies.RecurrentActorCriticPolicy._process_sequence(features, lstm_states, episode_starts, lstm)  # type: ignore[no-any-return]
    rows = lstm_states[0].shape[1]
    x = features.reshape(rows, -1, lstm.input_size).transpose(0, 1)
    starts = episode_starts.reshape(rows, -1).T
    hidden, cell = lstm_states
    # Rollouts are cut where episodes start, so starts are usually at the first step, which needs no reset in the loop.
    if bool(starts[0].any()):
        kept = (1.0 - starts[0])[:, None]
        hidden, cell = kept * hidden, kept * cell
    within = len(starts) > 1 and bool(starts[1:].any())
    output, final = lstm(x, (hidden, cell), reset=starts if within else None)
    return output.transpose(0, 1).flatten(0, 1), final
