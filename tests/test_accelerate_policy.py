"""Episode starts within a batch: `reset` of the drop-in layers, and sb3-contrib's recurrent agents."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import throughtime
from throughtime.acceleration import substitute_layers
from throughtime.errors import UserError

STEPS, ROWS, INPUT, HIDDEN = 7, 4, 3, 5


def stepwise(layer: nn.Module, x: Tensor, state: Any, reset: Tensor) -> tuple[Tensor, Any]:
    """Run torch's layer one step at a time, multiplying states by 0 at resets."""
    outputs = []
    for x_t, reset_t in zip(x, reset, strict=True):
        kept = (1 - reset_t)[None, :, None]
        state = tuple(kept * s for s in state) if isinstance(state, tuple) else kept * state
        y, state = layer(x_t[None], state)
        outputs.append(y)
    return torch.cat(outputs), state


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_reset_matches_a_loop_over_steps(name: str) -> None:
    torch.manual_seed(0)
    plain = getattr(nn, name)(INPUT, HIDDEN, 2, dtype=torch.float64)
    ours = getattr(throughtime, name)(INPUT, HIDDEN, 2, dtype=torch.float64)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(STEPS, ROWS, INPUT, dtype=torch.float64)
    state = torch.randn(2, ROWS, HIDDEN, dtype=torch.float64)
    state = (state, state.flip(0)) if name == "LSTM" else state
    reset = (torch.rand(STEPS, ROWS) < 0.3).double()
    expected, final = stepwise(plain, x, state, reset)
    found, ended = ours(x, state, reset=reset)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ended, final)
    for y in (found, expected):
        y.sin().sum().backward()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_reset_works_with_batch_first_and_under_compile() -> None:
    torch.manual_seed(0)
    layer = throughtime.LSTM(INPUT, HIDDEN, batch_first=True)
    x, reset = torch.randn(ROWS, STEPS, INPUT), (torch.rand(ROWS, STEPS) < 0.3).float()
    expected, _ = layer(x, reset=reset)
    for row in range(ROWS):
        torch.testing.assert_close(layer(x[row], reset=reset[row])[0], expected[row])
    assert not torch.equal(expected, layer(x)[0])
    compiled = torch.compile(lambda x, reset: layer(x, reset=reset)[0], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, reset), expected)


def test_a_traced_model_supports_reset() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = throughtime.GRU(INPUT, HIDDEN)

        def forward(self, x: Tensor, reset: Tensor) -> Tensor:
            y: Tensor = self.rnn(x, reset=reset)[0]
            return y

    model = Model()
    x, reset = torch.randn(STEPS, ROWS, INPUT), (torch.rand(STEPS, ROWS) < 0.3).float()
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x, reset), model(x, reset))


def test_a_reset_of_the_wrong_shape_is_rejected() -> None:
    layer = throughtime.LSTM(INPUT, HIDDEN)
    x = torch.randn(STEPS, ROWS, INPUT)
    with pytest.raises(UserError, match=r"reset must have shape \[7, 4\], got \[4, 7\]"):
        layer(x, reset=torch.zeros(ROWS, STEPS))
    with pytest.raises(UserError, match=r"reset must have shape \[7, 4\], got list"):
        layer(x, reset=[0])
    with pytest.raises(UserError, match="need a padded input, got a packed sequence"):
        layer(nn.utils.rnn.pack_sequence([x[:, 0]]), reset=torch.zeros(STEPS, 1))


class Policy(nn.Module):
    """The parts of sb3-contrib's policy that `accelerate` uses: the class, its LSTM and its method's signature."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.lstm_actor = nn.LSTM(INPUT, HIDDEN, **options)

    @staticmethod
    def _process_sequence(features: Tensor, lstm_states: Any, episode_starts: Tensor, lstm: nn.LSTM) -> Any:
        rows = lstm_states[0].shape[1]
        x = features.reshape(rows, -1, lstm.input_size).swapaxes(0, 1)
        output, final = stepwise(lstm, x, lstm_states, episode_starts.reshape(rows, -1).T)
        return output.transpose(0, 1).flatten(0, 1), final


class Buffer:
    """The parts of sb3-contrib's rollout buffer that `accelerate` uses: its class and the form of a minibatch."""

    def _get_samples(self, lengths: list[int]) -> Any:
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).float()
        starts = torch.zeros_like(mask)
        starts[1:, 0] = 1
        states = tuple(torch.randn(2, 2, len(lengths), HIDDEN))
        of_actor = types.SimpleNamespace(pi=states)
        return types.SimpleNamespace(lstm_states=of_actor, episode_starts=starts.flatten(), mask=mask.flatten())


class Agent:
    """The parts of sb3-contrib's agent that `accelerate` uses."""

    def __init__(self, policy: Policy, buffer: Buffer) -> None:
        self.policy = policy
        self.rollout_buffer = buffer


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Policy:
    def install(name: str, **classes: type) -> None:
        module = types.ModuleType(f"sb3_contrib.{name}")
        vars(module).update(classes)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    install("common.recurrent.policies", RecurrentActorCriticPolicy=Policy)
    install("common.recurrent.buffers", RecurrentRolloutBuffer=Buffer, RecurrentDictRolloutBuffer=Buffer)
    install("ppo_recurrent.ppo_recurrent", RecurrentPPO=Agent)
    torch.manual_seed(0)
    return Policy(num_layers=2)


@pytest.mark.parametrize("starts", ["none", "first", "within"])
@pytest.mark.parametrize("steps", [1, STEPS])
def test_a_recurrent_policy_runs_in_one_call(policy: Policy, starts: str, steps: int) -> None:
    calls = []
    policy.lstm_actor.register_forward_hook(lambda *_: calls.append(1))
    episode_starts = torch.zeros(ROWS, steps)
    if starts == "first":
        episode_starts[1:, 0] = 1
    elif starts == "within":
        episode_starts = (torch.rand(ROWS, steps) < 0.4).float()
    states = tuple(torch.randn(2, 2, ROWS, HIDDEN))
    of = (torch.randn(ROWS * steps, INPUT), states, episode_starts.flatten(), policy.lstm_actor)
    expected, final = policy._process_sequence(*of)
    calls.clear()
    report = substitute_layers(policy)
    assert "one call for all steps" in report.changed["_process_sequence"]
    found, ended = policy._process_sequence(*of)
    assert len(calls) == 1
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ended, final)
    throughtime.restore(policy)
    assert "_process_sequence" not in vars(policy)
    calls.clear()
    policy._process_sequence(*of)
    assert len(calls) == steps


def test_a_policy_with_its_own_method_keeps_it(policy: Policy) -> None:
    class Own(Policy):
        @staticmethod
        def _process_sequence(*_: Any) -> str:
            return "own"

    own = throughtime.accelerate(Own())
    assert own._process_sequence() == "own"
    assert type(own.lstm_actor) is throughtime.LSTM


@pytest.mark.parametrize("lengths", [[5, 7, 1], [4, 4]])
def test_an_agent_skips_the_padding_of_its_sequences(policy: Policy, lengths: list[int]) -> None:
    agent = Agent(policy, Buffer())
    x = torch.randn(len(lengths) * max(lengths), INPUT)

    def run() -> tuple[Tensor, Any, list[Tensor | None]]:
        torch.manual_seed(1)
        samples = agent.rollout_buffer._get_samples(lengths)
        y, final = policy._process_sequence(x, samples.lstm_states.pi, samples.episode_starts, policy.lstm_actor)
        counted = y * samples.mask[:, None]
        policy.zero_grad()
        counted.sin().sum().backward()
        return counted, final, [p.grad for p in policy.parameters()]

    expected, _, gradients = run()
    report = substitute_layers(agent)
    assert report.changed.keys() == {"rollout_buffer", "lstm_actor", "_process_sequence"}
    assert "rollout_buffer" in substitute_layers(agent).ours
    shapes = []
    hook = policy.lstm_actor.register_forward_pre_hook(lambda _, args: shapes.append(args[0].data.numel() // INPUT))
    found, _, ours = run()
    hook.remove()
    assert shapes == [sum(lengths)]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours, gradients)
    assert throughtime.restore(agent) is agent
    assert not vars(agent.rollout_buffer)
    assert type(policy.lstm_actor) is nn.LSTM


def test_a_buffer_with_its_own_minibatches_is_unchanged(policy: Policy) -> None:
    class Own(Buffer):
        def _get_samples(self, lengths: list[int]) -> Any:
            return super()._get_samples(lengths)

    agent = Agent(policy, Own())
    assert "Own has its own _get_samples" in substitute_layers(agent).left["rollout_buffer"]
    assert not vars(agent.rollout_buffer)
