"""Run four PyPI packages before and after `throughtime.accelerate` and compare their results and speed.

    OPENBLAS_NUM_THREADS=1 python benchmarks/gallery.py

prints the table of docs/gallery.md. Without the variable, the threads of NumPy's OpenBLAS busy-wait on the cores that
torch needs. Each package builds its model twice, with the same weights, and one of the two is accelerated. Both run the
package's own code, in turn, in one process. Nothing is downloaded: sounds and series are synthesized, and the weights
are random except Resemblyzer's, which come with the package.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import throughtime
from throughtime.bench.contestant import Ready
from throughtime.bench.machine import Machine
from throughtime.bench.measuring import in_turn, turn_of
from throughtime.bench.quiet import quiet

SAMPLE_RATE = 16_000  # Hz


class Row(NamedTuple):
    """A task's median time in seconds before and after `accelerate`, and the largest difference between the results.

    The difference is relative to the largest element of each result array. `disturbed` counts the rounds during which
    other processes used the processors; these rounds are left out if enough others remain.
    """

    task: str
    before: float
    after: float
    difference: float
    rounds: int
    disturbed: int


def compare(task: str, run: Callable[..., Any], models: Sequence[Any], *data: Any, seconds: float) -> Row:
    """Compare a task's results on both models, then time the task on each model in turn."""
    before, after = (partial(run, model, *data) for model in models)
    difference = relative_difference(after(), before())
    turns = [turn_of(Ready(call, None)) for call in (before, after)]
    rounds = in_turn(turns, seconds, quiet(torch.get_num_threads()))
    times = [median(column) for column in zip(*rounds.times, strict=True)]
    return Row(task, *times, difference, len(rounds.times), rounds.disturbed)


def relative_difference(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """Return the largest difference between two lists of arrays, relative to the largest element of each array."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(found, expected, strict=True)]
    return float(np.max([np.abs(a - b).max() / np.abs(b).max() for a, b in pairs]))


def noise(*shape: int) -> NDArray[np.float32]:
    return 0.1 * np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def gradients(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    """Run the backward pass and return the loss and the gradient of each parameter."""
    model.zero_grad()
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def resemblyzer(seconds: float) -> Iterator[Row]:
    """Embed a speaker's voice with Resemblyzer's trained LSTM: 3 layers of 256 units, windows of 160 steps."""
    from resemblyzer import VoiceEncoder, wav_to_mel_spectrogram

    def embed(encoder: Any, sound: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [encoder.embed_utterance(sound)]

    def train(encoder: Any, windows: torch.Tensor) -> list[torch.Tensor]:
        embeddings = encoder(windows)
        return gradients(encoder, (embeddings * torch.arange(embeddings.shape[1])).mean())

    models = [VoiceEncoder("cpu", verbose=False) for _ in range(2)]
    throughtime.accelerate(models[1])
    for batch in (1, 4, 16, 64):
        # The package cuts a sound into windows of 1.6 s, 1.3 of them per second.
        sound = noise(round(SAMPLE_RATE * (1.6 + (batch - 1) / 1.3)))
        yield compare(f"embed, batch {batch}", embed, models, sound, seconds=seconds)
    for batch in (1, 4, 16, 64):
        windows = [wav_to_mel_spectrogram(sound)[:160] for sound in noise(batch, round(1.6 * SAMPLE_RATE))]
        yield compare(f"train, batch {batch}", train, models, torch.tensor(np.array(windows)), seconds=seconds)


def denoiser(seconds: float) -> Iterator[Row]:
    """Remove noise from speech with denoiser's dns48: an LSTM of 2 layers of 768 units between convolutions."""
    from denoiser.demucs import DemucsStreamer
    from denoiser.pretrained import dns48

    @torch.no_grad()
    def enhance(model: Any, sound: torch.Tensor) -> list[torch.Tensor]:
        return [model(sound)]

    @torch.no_grad()
    def stream(model: Any, sound: torch.Tensor) -> list[torch.Tensor]:
        streamer = DemucsStreamer(model)
        pieces = [streamer.feed(piece) for piece in sound[0].split(1024, dim=1)]
        return [torch.cat([*pieces, streamer.flush()], 1)]

    def train(model: Any, sound: torch.Tensor) -> list[torch.Tensor]:
        return gradients(model, nn.functional.mse_loss(model(sound), sound))

    torch.manual_seed(0)
    models = [dns48(pretrained=False)]
    models.append(throughtime.accelerate(deepcopy(models[0])))
    sounds = {batch: torch.from_numpy(noise(batch, 1, SAMPLE_RATE)) for batch in (1, 4)}
    for batch, sound in sounds.items():
        yield compare(f"enhance 1 s, batch {batch}", enhance, models, sound, seconds=seconds)
    yield compare("stream 1 s", stream, models, sounds[1], seconds=seconds)
    for batch, sound in sounds.items():
        yield compare(f"train on 1 s, batch {batch}", train, models, sound, seconds=seconds)


def recurrent_ppo(seconds: float) -> Iterator[Row]:
    """Balance a pole with sb3-contrib's RecurrentPPO: an LSTM of 256 units for the actor and one for the critic."""
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.env_util import make_vec_env

    def agent(environments: int, *, accelerated: bool) -> Any:
        made = RecurrentPPO(
            "MlpLstmPolicy", make_vec_env("CartPole-v1", environments, seed=0), n_epochs=1, seed=0, device="cpu"
        )
        if accelerated:
            throughtime.accelerate(made)
        made.learn(made.n_steps * environments)
        return made

    def collect(agent: Any) -> list[NDArray[np.float32]]:
        agent.set_random_seed(0)
        _, callback = agent._setup_learn(0, None)
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
        return [agent.rollout_buffer.values, agent.rollout_buffer.log_probs]

    for environments in (1, 4, 16):
        agents = [agent(environments, accelerated=accelerated) for accelerated in (False, True)]
        yield compare(f"collect 128 steps, batch {environments}", collect, agents, seconds=seconds)


def neuralforecast(seconds: float) -> Iterator[Row]:
    """Forecast 12 months from 96 with neuralforecast's GRU: 2 layers of 128 units."""
    import pandas
    from neuralforecast import NeuralForecast
    from neuralforecast.models import GRU

    def forecaster(batch: int, *, accelerated: bool) -> Any:
        model = GRU(
            h=12, input_size=96, max_steps=20, batch_size=batch, windows_batch_size=batch, accelerator="cpu",
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        if accelerated:
            throughtime.accelerate(model)
        return NeuralForecast([model], freq=1)

    def fit(forecaster: Any, series: Any) -> list[list[float]]:
        forecaster.fit(series, use_init_models=True)
        return [[loss for _, loss in forecaster.models[0].train_trajectories]]

    def predict(forecaster: Any) -> list[Any]:
        return [forecaster.predict()["GRU"]]

    for batch in (1, 4, 16, 64):
        months = np.arange(300)
        values = 10 + np.sin(2 * np.pi * months / 12 + np.arange(batch)[:, None]) + noise(batch, 300)
        frames = [pandas.DataFrame({"unique_id": f"{k:02}", "ds": months, "y": y}) for k, y in enumerate(values)]
        forecasters = [forecaster(batch, accelerated=accelerated) for accelerated in (False, True)]
        yield compare(f"train 20 steps, batch {batch}", fit, forecasters, pandas.concat(frames), seconds=seconds)
        yield compare(f"predict, batch {batch}", predict, forecasters, seconds=seconds)


GALLERY = {  # keys: names on PyPI
    "resemblyzer": resemblyzer,
    "denoiser": denoiser,
    "sb3-contrib": recurrent_ppo,
    "neuralforecast": neuralforecast,
}
# Resemblyzer depends on webrtcvad, which imports pkg_resources; newer setuptools no longer contain it.
REQUIREMENTS = {"resemblyzer": 'resemblyzer "setuptools<81"'}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=f"default: {', '.join(GALLERY)}")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time per row (default: 2)")
    given = parser.parse_args()
    unknown = sorted(set(given.packages) - GALLERY.keys())
    if unknown:
        parser.error(f"unknown package {unknown[0]}; choose from {', '.join(GALLERY)}")
    warnings.filterwarnings("ignore")  # raised by the packages about their dependencies
    logging.disable(logging.WARNING)  # logged by Lightning in each training run
    print(f"{Machine.this()}; {torch.get_num_threads()} threads.\n")
    print("| package | task | before, ms | after, ms | times as fast | difference | rounds |")
    print("|---|---|---|---|---|---|---|")
    absent = []
    for package in given.packages or GALLERY:
        try:
            for row in GALLERY[package](given.seconds):
                times = f"{1e3 * row.before:.1f} | {1e3 * row.after:.1f} | {row.before / row.after:.2f}"
                rounds = f"{row.rounds}{' (disturbed)' if row.disturbed else ''}"
                print(f"| {package} | {row.task} | {times} | {row.difference:.0e} | {rounds} |", flush=True)
        except ImportError as error:
            requirements = REQUIREMENTS.get(package, package)
            absent.append(f"{package} is missing ({error}). Install it with: pip install {requirements}")
    for line in absent:
        print(line, file=sys.stderr)
    return 1 if absent else 0


if __name__ == "__main__":
    raise SystemExit(main())
