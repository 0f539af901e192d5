"""Time updates of sb3-contrib's RecurrentPPO before and after `throughtime.accelerate`.

    pip install sb3-contrib
    python benchmarks/recurrent_ppo.py

An update is one epoch over a rollout of 128 steps in 8 environments (CartPole without velocities), with LSTMs of 256
units for actor and critic. Episodes start inside every rollout. The script prints the median processor time in
milliseconds over interleaved rounds on one thread, the median ratio per round, and the largest difference between the
losses.

With `--train` it instead trains an accelerated agent on CartPole without velocities for each seed, and prints its mean
return over 100 episodes. The hyper-parameters are those of the RL Zoo (https://github.com/DLR-RM/rl-baselines3-zoo) for
`ppo_lstm` on CartPoleNoVel-v1, from the card of its trained model (https://huggingface.co/sb3/ppo_lstm-CartPoleNoVel-v1).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

import throughtime

ENVIRONMENTS, TRAINING_STEPS, EPISODES = 8, 100_000, 100
LOSSES = ("train/loss", "train/value_loss", "train/policy_gradient_loss", "train/entropy_loss")


def without_velocities(environment: gymnasium.Env) -> gymnasium.Env:
    """Wrap an environment so that it only shows the positions of the cart and the pole."""
    space = environment.observation_space
    shown = gymnasium.spaces.Box(space.low[[0, 2]], space.high[[0, 2]])
    return gymnasium.wrappers.TransformObservation(environment, lambda x: x[[0, 2]], shown)


def agent_of(batch: int, *, accelerated: bool) -> Any:
    """Create an agent with a rollout of 128 steps in each environment."""
    environments = make_vec_env("CartPole-v1", ENVIRONMENTS, seed=0, wrapper_class=without_velocities)
    agent = RecurrentPPO("MlpLstmPolicy", environments, batch_size=batch, n_epochs=1, seed=0, device="cpu")
    if accelerated:
        throughtime.accelerate(agent)
    agent.learn(128 * ENVIRONMENTS)
    return agent


def update(agent: Any) -> tuple[float, list[float]]:
    """Run one update and return its processor time in seconds and its losses."""
    np.random.seed(0)  # the buffer's shuffling
    start = time.process_time()  # less affected by other programs than elapsed time
    agent.train()
    return time.process_time() - start, [agent.logger.name_to_value[name] for name in LOSSES]


def compare(batch: int, rounds: int) -> str:
    """Time updates with minibatches of `batch` steps and return a row of the table."""
    agents = [agent_of(batch, accelerated=accelerated) for accelerated in (False, True)]
    # Both agents use the same weights and rollout in every round.
    weights = agents[0].policy.state_dict()
    agents[1].rollout_buffer = copy.deepcopy(agents[0].rollout_buffer)
    throughtime.accelerate(agents[1])
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


def train(seed: int) -> str:
    """Train and evaluate an accelerated agent and return its row of the table."""
    environments = make_vec_env("CartPole-v1", ENVIRONMENTS, seed=seed, wrapper_class=without_velocities)
    training = VecNormalize(environments, gamma=0.98)
    network = {
        "ortho_init": False, "activation_fn": torch.nn.ReLU, "lstm_hidden_size": 64, "enable_critic_lstm": True,
        "net_arch": {"pi": [64], "vf": [64]},
    }  # fmt: skip
    agent = RecurrentPPO(
        "MlpLstmPolicy", training, n_steps=32, batch_size=256, n_epochs=20, gamma=0.98, gae_lambda=0.8, ent_coef=0.0,
        learning_rate=lambda left: 1e-3 * left, clip_range=lambda left: 0.2 * left, policy_kwargs=network, seed=seed,
        device="cpu",
    )  # fmt: skip
    throughtime.accelerate(agent)
    start = time.perf_counter()
    agent.learn(TRAINING_STEPS)
    seconds = time.perf_counter() - start
    test = VecNormalize(
        make_vec_env("CartPole-v1", 10, seed=1000 + seed, wrapper_class=without_velocities),
        training=False,
        norm_reward=False,
    )
    test.obs_rms = training.obs_rms
    returns, _ = evaluate_policy(agent, test, EPISODES, return_episode_rewards=True)
    mean, spread, lowest = np.mean(returns), np.std(returns), min(returns)
    return f"| {seed} | {seconds:.0f} | {mean:.1f} | {spread:.1f} | {lowest:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--train", action="store_true", help="train agents instead of timing updates")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="train an agent for each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.train:
        print("| seed | time, s | mean return | standard deviation | lowest return |\n|---|---|---|---|---|")
        for seed in arguments.seeds:
            print(train(seed), flush=True)
        return
    print("| minibatch | before, ms | after, ms | ratio | largest difference of the losses |\n|---|---|---|---|---|")
    for batch in (128, 1024):
        print(compare(batch, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
