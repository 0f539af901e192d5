"""Synthesized sounds for tests: tones, plucked strings, and a distortion circuit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile


def write(path: Path, samples: np.ndarray, rate: int = 8000, subtype: str | None = "FLOAT") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype=subtype if path.suffix == ".wav" else None)
    return path


def tone(seconds: float = 1.0, rate: int = 8000, pitch: float = 220.0, level: float = 0.5) -> np.ndarray:
    """Make a decaying tone with two overtones and a little noise, identical on every call."""
    t = np.arange(round(seconds * rate)) / rate
    harmonics = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in (1, 2, 3))
    noise = np.random.default_rng(round(pitch)).normal(size=len(t))
    return (level * 0.5 * (harmonics + 0.02 * noise) * np.exp(-t)).astype(np.float32)


def plucks(seconds: float, rate: int = 48000, seed: int = 0) -> np.ndarray:
    """Make plucked strings with random pitches and strengths, as decaying harmonics."""
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


def clipper(dry: np.ndarray, rate: int = 48000, drive: float = 20.0, oversampled: int = 8) -> np.ndarray:
    """Simulate a diode clipper between two tone filters, each an ODE for the voltage of a capacitor.

    The chain is a 150 Hz high-pass, a gain, the clipper of Yeh, Abel & Smith 2007 (DAFx-07), and a 4 kHz low-pass. The
    clipper, dV/dt = (u - V) / RC - 2 I/C sinh(V / V_t), is integrated by semi-implicit Euler steps with oversampling.
    """
    from scipy.signal import lfilter, resample_poly

    fast = rate * oversampled
    u = resample_poly(dry.astype(np.float64), oversampled, 1)
    high, low = (np.exp(-2 * np.pi * f / fast) for f in (150.0, 4000.0))
    u = lfilter([1, -1], [1, -high], u) * drive
    resistance, capacity, current, thermal = 2200.0, 10e-9, 2.52e-9, 45.3e-3
    out, voltage, step = np.empty(len(u)), 0.0, 1 / fast
    for k, value in enumerate(u.tolist()):
        # The stiff diode term is linearized around the previous voltage.
        ratio = np.clip(voltage / thermal, -30, 30)
        force = (value - voltage) / (resistance * capacity) - 2 * current / capacity * np.sinh(ratio)
        slope = 1 / (resistance * capacity) + 2 * current / capacity / thermal * np.cosh(ratio)
        voltage += step * force / (1 + step * slope)
        out[k] = voltage
    return resample_poly(lfilter([1 - low], [1, -low], out), 1, oversampled)[: len(dry)].astype(np.float32)
