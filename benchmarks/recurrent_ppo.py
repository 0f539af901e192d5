"""Time updates of sb3-contrib's RecurrentPPO before and after `throughtime.accelerate`.

    pip install sb3-contrib
    python benchmarks/recurrent_ppo.py

An update is one epoch over a rollout of 128 steps in 8 environments (CartPole without velocities), with LSTMs of 256
units for actor and critic. Episodes start inside every rollout. The script prints the median processor time in
milliseconds over interleaved rounds on one thread, the median ratio per round, and the largest difference between the
losses. With `--train` it instead trains an accelerated agent on CartPole without velocities and prints its mean return.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import throughtime

LOSSES = ("train/loss", "train/value_loss", "train/policy_gradient_loss", "train/entropy_loss")


def without_velocities(environment: gymnasium.Env) -> gymnasium.Env:
    """Wrap an environment so that it only shows the positions of the cart and the pole."""
    space = environment.observation_space
    shown = gymnasium.spaces.Box(space.low[[0, 2]], space.high[[0, 2]])
    return gymnasium.wrappers.TransformObservation(environment, lambda x: x[[0, 2]], shown)


def agent_of(batch: int, *, accelerated: bool) -> Any:
    """Create an agent with a rollout of 128 steps in each of 8 environments."""
    environments = make_vec_env("CartPole-v1", 8, seed=0, wrapper_class=without_velocities)
    agent = RecurrentPPO("MlpLstmPolicy", environments, batch_size=batch, n_epochs=1, seed=0, device="cpu")
    if accelerated:
        throughtime.accelerate(agent.policy)
    agent.learn(128 * 8)
    return agent


def update(agent: Any) -> tuple[float, list[float]]:
    """Run one update and return its processor time in seconds and its losses."""
    np.random.seed(0)  # the buffer's shuffling
    start = time.process_time()  # other programs affect it less than elapsed time
    agent.train()
    return time.process_time() - start, [agent.logger.name_to_value[name] for name in LOSSES]


def compare(batch: int, rounds: int) -> str:
    """Time updates with minibatches of `batch` steps and return a row of the table."""
    agents = [agent_of(batch, accelerated=accelerated) for accelerated in (False, True)]
    # Both agents use the same weights and rollout in every round.
    weights = agents[0].policy.state_dict()
    agents[1].rollout_buffer = agents[0].rollout_buffer
    times, difference = [], 0.0
    for _ in range(rounds + 1):
        weights = {name: value.clone() for name, value in weights.items()}
        for agent in agents:
            agent.policy.load_state_dict(weights)
            agent.policy.optimizer = type(agent.policy.optimizer)(agent.policy.parameters(), lr=3e-4)
        found = [update(agent) for agent in agents]
        times.append([seconds for seconds, _ in found])
        difference = max(difference, float(np.abs(np.subtract(found[0][1], found[1][1])).max()))
    theirs, ours = zip(*times[1:], strict=True)
    ratio = statistics.median(a / b for a, b in times[1:])
    before, after = (statistics.median(of) * 1e3 for of in (theirs, ours))
    return f"| {batch} | {before:.0f} | {after:.0f} | {ratio:.1f} | {difference:.0e} |"


def train(steps: int) -> None:
    """Train an accelerated agent and print its mean return over 50 episodes."""
    environments = make_vec_env("CartPole-v1", 8, seed=0, wrapper_class=without_velocities)
    agent = RecurrentPPO(
        "MlpLstmPolicy", environments, n_steps=128, batch_size=512, n_epochs=10, gamma=0.99, gae_lambda=0.95, seed=0,
        learning_rate=lambda left: 2e-3 * left, device="cpu", policy_kwargs={"lstm_hidden_size": 64, "net_arch": [64]},
    )  # fmt: skip
    throughtime.accelerate(agent.policy)
    start = time.perf_counter()
    agent.learn(steps)
    seconds = time.perf_counter() - start
    test = make_vec_env("CartPole-v1", 10, seed=1000, wrapper_class=without_velocities)
    mean, spread = evaluate_policy(agent, test, n_eval_episodes=50)
    print(f"{steps:,} steps in {seconds:.0f} s: mean return {mean:.1f}, standard deviation {spread:.1f}, of 500")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--train", type=int, metavar="STEPS", help="train for STEPS steps instead of timing updates")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.train:
        train(arguments.train)
        return
    print("| minibatch | before, ms | after, ms | ratio | largest difference of the losses |\n|---|---|---|---|---|")
    for batch in (128, 1024):
        print(compare(batch, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
