"""Sounds for tests: tones, plucked strings, and a distortion circuit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile


def write(path: Path, samples: np.ndarray, rate: int = 8000, subtype: str | None = "FLOAT") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype=subtype if path.suffix == ".wav" else None)
    return path


def tone(seconds: float = 1.0, rate: int = 8000, pitch: float = 220.0, level: float = 0.5) -> np.ndarray:
    """A decaying tone with two overtones and a little noise, the same each time."""
    t = np.arange(round(seconds * rate)) / rate
    harmonics = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in (1, 2, 3))
    noise = np.random.default_rng(round(pitch)).normal(size=len(t))
    return (level * 0.5 * (harmonics + 0.02 * noise) * np.exp(-t)).astype(np.float32)


def plucks(seconds: float, rate: int = 48000, seed: int = 0) -> np.ndarray:
    """Plucked strings of random pitches and strengths, as decaying harmonics."""
    draw = np.random.default_rng(seed)
    found = np.zeros(round(seconds * rate), np.float32)
    at = 0
    while at < len(found):
        length = min(round(rate * draw.uniform(0.2, 0.6)), len(found) - at)
        t = np.arange(length) / rate
        pitch, strength = 82.4 * 2 ** draw.uniform(0, 3), draw.uniform(0.1, 1.0)
        for k in range(1, 12):
            if pitch * k < rate / 2.5:
                phase = draw.uniform(0, 2 * np.pi)
                partial = np.sin(2 * np.pi * pitch * k * t + phase) * np.exp(-t * (2 + k)) / k**1.2
                found[at : at + length] += (0.4 * strength * partial).astype(np.float32)
        at += length
    return np.clip(found, -1, 1)
