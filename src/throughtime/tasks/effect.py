"""Effect: model an audio device from recordings of its input and output."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from throughtime.codecs import Codecs
from throughtime.data.knobs import DeviceInput, settings_by_pair
from throughtime.data.pairs import Pair, Pairs, find_pairs, read_pairs
from throughtime.data.segments import Segments, WholeSignals, segment_starts
from throughtime.data.sound import (
    BLOCK,
    SOUND_FILES,
    Recording,
    common,
    find_recordings,
    seconds_in_words,
    sound_writer,
    warn_of_resampling,
)
from throughtime.data.splits import require_shares
from throughtime.data.waveform import Samples
from throughtime.errors import DataError, UserError
from throughtime.outputs import Signal
from throughtime.paths import display_path, joint_name
from throughtime.spelling import option
from throughtime.tasks.base import Data, Figures, Interface, Prediction, Progress, Task
from throughtime.tasks.options.effect import EffectOptions

if TYPE_CHECKING:
    from torchmetrics import Metric

    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.sight.report.data import Sound
    from throughtime.sight.report.passage import Passage

_PRE_EMPHASIS = 0.85
_ORDER = 7  # the order of the polynomial baseline
_READ_AT_ONCE = 8192  # steps to evaluate at a time
_EXAMPLE_SAMPLES = 4096  # samples to choose the training example from
_TIMED_BLOCK, _TIMED_SECONDS = 64, 0.5  # samples per block and duration of the speed measurement


class Effect(Task[Pairs]):
    """Predict the output of a device, such as an amplifier, sample by sample (Wright et al. 2019, DAFx-19)."""

    name = "effect"
    about = "model a device from its input and output sound"
    Options = EffectOptions
    options: EffectOptions
    monitor = "esr"
    fitting = ("rate",)
    interfacing = ("skip",)
    per_data = ("knob",)
    prediction_files = SOUND_FILES
    baseline_rows = 1

    @classmethod
    def detect(cls, options: Mapping[str, Any]) -> str:
        """See `Task.detect`; matches if the option `paired` is set."""
        return "pairs of dry and wet sounds" if options.get("paired") else ""

    @property
    def unit(self) -> str:
        """See `Task.unit`."""
        return "sample"

    def next_commands(self, codecs: Codecs) -> Sequence[str]:
        """See `Task.next_commands`; predicts the first dry sound."""
        pair = find_pairs(self.options.data or (), self.options.knob)[0]
        knobs = "".join(f" --knob {name}={value:g}" for name, value in pair.knobs.items())
        return f"predict {{}} {shlex.quote(display_path(pair.dry.path))} --out {{}}/predicted.wav{knobs}", "inspect {}"

    @property
    def loss_in_words(self) -> str:
        """See `Task.loss_in_words`."""
        return "0.75 x pre-emphasized error-to-signal ratio + 0.25 x error of the means"

    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> Data[Pairs]:
        """See `Task.prepare`."""
        options = self.options
        if options.data is None:
            raise DataError("effect needs data: pass a dry and a wet sound file, or a directory of each")
        pairs = find_pairs(options.data, options.knob)
        device = codecs.inputs if codecs else _device_of(pairs, options.rate)
        whole = self._read(pairs, options.data, device, progress)
        parts = {
            name: self._read(find_pairs([path]), [path], device, progress)
            for name in ("valid", "test")
            if (path := getattr(options, name))
        }
        shares = {"valid": options.valid_share, "test": options.test_share}
        held = {name: 0.0 if name in parts else share for name, share in shares.items()}
        require_shares(held["valid"], held["test"])
        if not held["valid"] and "valid" not in parts:
            raise DataError(f"{option('valid_share')} must be above 0 to select the best weights")
        first, last = 1 - held["valid"] - held["test"], 1 - held["test"]
        bounds = {"train": (0.0, first), "valid": (first, last), "test": (last, 1.0)}
        for name, (start, stop) in bounds.items():
            if start < stop and name not in parts:
                parts[name] = _part_of(whole, start, stop)
        counts = {name: part.samples for name, part in parts.items()}
        digest = "".join(parts[name].digest for name in sorted(parts))
        return Data(
            whole.name,
            Codecs(device),
            parts["train"],
            parts["valid"],
            parts.get("test"),
            digest,
            {**counts, "rate": device.rate},
            whole.notes,
        )

    def read(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Pairs:
        """See `Task.read`."""
        pairs = find_pairs(paths, self.options.knob)
        warn_of_resampling([pair.dry for pair in pairs], codecs.inputs.rate)
        return self._read(pairs, paths, codecs.inputs, progress)

    def read_inputs(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Pairs:
        """See `Task.read_inputs`; reads dry sounds only."""
        recordings = find_recordings(paths)
        warn_of_resampling(recordings, codecs.inputs.rate)
        dry = [recording.samples(codecs.inputs) for recording in recordings]
        signals = [np.concatenate([samples, np.zeros_like(samples)], 1) for samples in dry]
        digest = "".join(recording.digest for recording in recordings)
        each = settings_by_pair(self.options.knob, len(recordings), "the sounds")
        knobs = np.stack([codecs.inputs.settings(own) for own in each])
        return Pairs(recordings[0].name, signals, codecs.inputs.rate, digest, knobs)

    def interface(self, codecs: Codecs) -> Interface:
        """See `Task.interface`."""
        inputs = 1 + len(codecs.inputs.knobs)
        return Interface("numeric", inputs, Signal(1, _PRE_EMPHASIS), causal=True, skip=self.options.skip)

    def batches(self, part: Pairs, batch: int, *, seed: int = 0, rank: int = 0, ranks: int = 1) -> Segments:
        """Return batches of segments, cut into windows that carry the state over."""
        return Segments(
            part.signals, batch, **self._cuts(part), constants=part.knobs, seed=seed, rank=rank, ranks=ranks
        )

    def reading(
        self, part: Pairs, batch: int = 1, *, terms: int | None = None, rank: int = 0, ranks: int = 1
    ) -> WholeSignals:
        """Return the whole pairs one after another; each process reads all of them."""
        return WholeSignals(part.signals, _READ_AT_ONCE, terms, part.knobs)

    def fitting_batch(self, data: Data[Pairs], batch: int, ranks: int) -> int:
        """Return the batch size, reduced to the number of segments if there are fewer."""
        count = len(segment_starts(data.train.signals, **self._cuts(data.train)))
        fitting = min(batch, count) // ranks * ranks
        if fitting < 1:
            raise DataError(f"{data.name} has {count} segments, fewer than the {ranks} processes")
        return fitting

    def metrics(self, codecs: Codecs) -> Mapping[str, Metric]:
        """Return the error-to-signal ratio with and without pre-emphasis, and the mean and the mean absolute error."""
        from throughtime.tasks.metrics import AbsoluteError, ErrorToSignal, MeanError

        return {
            "esr": ErrorToSignal(),
            "esr_pre_emphasized": ErrorToSignal(_PRE_EMPHASIS),
            "mean_error": MeanError(),
            "mae": AbsoluteError(),
        }

    def loss(self, figures: Figures) -> float:
        """See `Task.loss`; computed over all signals, since a batch may be nearly silent and its ratio very large."""
        dc = Signal(1).dc
        return (1 - dc) * figures["esr_pre_emphasized"] + dc * figures["mean_error"]

    def figures(self, figures: Figures, part: Pairs) -> Figures:
        """See `Task.figures`.

        Returns:
            `loss`; `esr` and `esr_pre_emphasized`, the energy of the error divided by the wet signal's; `mae_db`, the
            mean absolute error in decibels of full scale; and the number of `samples`.
        """
        found = {name: value for name, value in figures.items() if name not in ("terms", "mae", "mean_error")}
        return {**found, "mae_db": 20 * math.log10(max(figures["mae"], 1e-10)), "samples": int(figures["terms"])}

    def usage_figures(self, model: SequenceModel, codecs: Codecs) -> Figures:
        """Return the seconds of sound that `Stream` processes per second on one core, in blocks of 64 samples."""
        from throughtime.streaming import Stream

        device: DeviceInput = codecs.inputs
        stream, rate = Stream(model, knobs=dict.fromkeys(device.knobs, 0.5)), device.rate
        block = np.random.default_rng(0).uniform(-0.5, 0.5, _TIMED_BLOCK).astype(stream.dtype)
        stream.process(block)
        began, count = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < _TIMED_SECONDS:
            for _ in range(20):
                stream.process(block)
            count += 20
        return {"real_time_factor": count * _TIMED_BLOCK / rate / passed}

    def label(self, metric: str) -> str:
        """See `Task.label`."""
        return "ESR" if metric == "esr" else super().label(metric)

    def figure_rows(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """See `Task.figure_rows`."""
        rows = [
            ("ESR", f"{figures['esr']:.5f}, pre-emphasized {figures['esr_pre_emphasized']:.5f}"),
            ("mean absolute error", f"{figures['mae_db']:.1f} dB"),
        ]
        if "loss" in figures:
            rows.append(("loss", f"{figures['loss']:.5f}"))
        rows.append(("samples", f"{figures['samples']:,.0f}"))
        if "real_time_factor" in figures:
            rows.append(("speed", f"{figures['real_time_factor']:,.0f}x real time on one core, streaming"))
        return rows

    def data_in_words(self, counts: Mapping[str, int]) -> str:
        """See `Task.data_in_words`."""
        rate = counts["rate"]
        listed = ", ".join(
            f"{seconds_in_words(counts[part], rate)} {words}" for part, words in self.parts.items() if counts.get(part)
        )
        return f"{listed}; {rate:,} samples per second"

    def baselines(self, data: Data[Pairs]) -> Mapping[str, Any]:
        """Fit memoryless baselines: the dry signal scaled to fit, and a polynomial of it."""
        gram, cross = np.zeros((_ORDER + 1, _ORDER + 1)), np.zeros(_ORDER + 1)
        for powers, wet in _in_powers(data.train):
            gram += powers.T @ powers
            cross += powers.T @ wet
        polynomial, *_ = np.linalg.lstsq(gram, cross, rcond=None)
        scale = cross[1] / max(gram[1, 1], 1e-12)
        return {
            "scaled dry signal": [0.0, float(scale), *[0.0] * (_ORDER - 1)],
            f"polynomial of order {_ORDER}": polynomial.tolist(),
        }

    def baseline_figures(self, fitted: Mapping[str, Any], part: Pairs, codecs: Codecs) -> dict[str, Figures]:
        """Evaluate the baselines, which are functions of the current dry sample alone."""
        import torch

        found = {}
        for name, coefficients in fitted.items():
            metrics = self.metrics(codecs)
            for powers, wet in _in_powers(part):
                raw, true = (torch.from_numpy(np.asarray(x, float)[:, None]) for x in (powers @ coefficients, wet))
                for metric in metrics.values():
                    metric.update(raw, true, **metric._filter_kwargs(lengths=torch.tensor([len(raw)])))
            values = {key: float(metric.compute()) for key, metric in metrics.items()}
            found[name] = self.figures({**values, "terms": part.samples}, part)
        return found

    def predict(self, model: SequenceModel, part: Pairs, codecs: Codecs) -> Prediction:
        """Predict the wet sample for each dry sample, one per row."""
        from throughtime.streaming import Stream

        def rows() -> Iterator[list[float]]:
            for signal, settings in zip(part.signals, part.knobs.tolist(), strict=True):
                stream = Stream(model, knobs=dict(zip(codecs.inputs.knobs, settings, strict=True)))
                for start in range(0, len(signal), BLOCK):
                    dry = np.ascontiguousarray(signal[start : start + BLOCK, 0], stream.dtype)
                    yield from np.stack([dry, stream.process(dry)], 1).tolist()

        return Prediction(("dry", "wet"), rows())

    def example(self, model: SequenceModel, data: Data[Pairs]) -> str:
        """Return the loudest sample at the start of the held-out sound, as predicted and as recorded."""
        import torch

        parameter = next(model.parameters())
        inputs, wet = _of_pair(data.valid, 0, slice(0, _EXAMPLE_SAMPLES))
        loudest = int(np.abs(wet[:, 0]).argmax())
        given = torch.from_numpy(inputs[: loudest + 1])[:, None].to(parameter.device, parameter.dtype)
        with torch.no_grad():
            raw, _ = model(given)
        return (
            f"dry {inputs[loudest, 0]:.3f} at {loudest / data.valid.rate:.3f} s -> wet {float(raw[-1, 0, 0]):.3f} "
            f"(recorded: {wet[loudest, 0]:.3f})"
        )

    def write_prediction(
        self, model: SequenceModel, paths: Sequence[str | Path], codecs: Codecs, out: Path, progress: Progress | None
    ) -> str:
        """Write the network's output for a dry sound file, block by block."""
        from throughtime.streaming import Stream

        if len(paths) != 1 or Path(paths[0]).is_dir():
            raise UserError(f"{display_path(out)} holds one sound; pass exactly one dry sound file")
        waveform: DeviceInput = codecs.inputs
        dry = Recording.open(paths[0])
        (knobs,) = settings_by_pair(self.options.knob, 1, dry.name)
        stream, count = Stream(model, knobs=knobs), 0
        with sound_writer(out, waveform) as write:
            for block in dry.blocks(waveform):
                write(stream.process(block.astype(stream.dtype, copy=False)))
                count += len(block)
                if progress:
                    progress("processing", count, round(dry.seconds * waveform.rate))
        resampled = f", resampled from {dry.rate}" if dry.rate != waveform.rate else ""
        return f"{count / waveform.rate:,.2f} s of sound, {waveform.rate:,} samples per second{resampled},"

    def passage(self, part: Pairs, codecs: Codecs, length: int, name: str) -> Passage:
        """See `Task.passage`; shows the beginning of the first pair."""
        from throughtime.sight.report.passage import Item, Passage

        inputs, wet = _of_pair(part, 0, slice(0, length))
        features = ("dry", *codecs.inputs.knobs)
        return Passage(name, [Item(inputs, wet, name=part.name)], "sample", features=features, part=part)

    def sounds(self, model: SequenceModel, part: Pairs, codecs: Codecs, names: Sequence[str]) -> list[Sound]:
        """See `Task.sounds`: a few seconds of the longest pair, with the error over time."""
        from throughtime.sight.report.data import Sound
        from throughtime.sight.report.passage import short
        from throughtime.sight.report.sound import SECONDS, WINDOW, listen, loudest, means, track

        longest = max(range(len(part.signals)), key=lambda k: len(part.signals[k]))
        length = round(SECONDS * part.rate)
        first = loudest(part.signals[longest][:, 1], length)
        inputs, wet = _of_pair(part, longest, slice(first, first + length))
        found, values = listen(model, inputs, names, lambda raw, start: raw[:, 0])
        window = max(1, round(WINDOW * part.rate))
        energy = means(np.square(wet[:, 0], dtype=np.float64), window)
        error = means(np.square(wet[:, 0] - found), window)
        # In windows 60 dB below the loudest, the target's energy is almost 0, so the ratio would be meaningless.
        audible = energy > 1e-6 * energy.max()
        ratio = np.where(audible, 10 * np.log10(np.maximum(error, 1e-12) / np.maximum(energy, 1e-12)), np.nan)
        tracks = [track("dry", inputs[:, 0]), track("target", wet[:, 0]), track("prediction", found)]
        title = f"{short(part.name)}, from {first / part.rate:.2f} s of the data read"
        return [Sound(title, part.rate, tracks, (1, 2), "ESR, dB", ratio, window, values)]

    def pictures(self, model: SequenceModel, data: Data[Pairs], terms: int) -> dict[str, Any]:
        """See `Task.pictures`: an excerpt of the sound."""
        from throughtime.sight.report.collect import states_of

        return {"sounds": self.sounds(model, data.reported, data.codecs, states_of(model))}

    def _read(
        self, pairs: Sequence[Pair], paths: Sequence[str | Path], device: DeviceInput, progress: Progress | None
    ) -> Pairs:
        aligned = self.options.align == "auto"
        return read_pairs(pairs, joint_name(paths), device, align=aligned, progress=progress)

    def _cuts(self, part: Pairs) -> dict[str, int]:
        """Return the lengths of a segment, a window and the burn-in; no segment is longer than the longest signal."""
        options = self.options
        segment = min(round(options.segment * part.rate), max(map(len, part.signals)))
        return {"segment": segment, "window": options.window, "burn_in": options.burn_in}


def _device_of(pairs: Sequence[Pair], rate: int | None) -> DeviceInput:
    """Return the device's input: the pairs' knobs, and the requested sampling rate or else the pairs' own.

    Raises:
        DataError: if the pairs have different rates.
    """
    return DeviceInput(rate or common([pair.dry for pair in pairs], "rate"), knobs=tuple(pairs[0].knobs))


def _part_of(pairs: Pairs, start: float, stop: float) -> Pairs:
    """Return the part of each pair between two fractions of its length."""
    signals = [signal[round(start * len(signal)) : round(stop * len(signal))] for signal in pairs.signals]
    if not all(map(len, signals)):
        raise DataError(f"{pairs.name} is too short to hold out part of it")
    return Pairs(pairs.name, signals, pairs.rate, f"{pairs.digest}[{start:.6f}:{stop:.6f}]", pairs.knobs)


def _of_pair(pairs: Pairs, k: int, steps: slice) -> tuple[Samples, Samples]:
    """Return the inputs `[T, 1 + knobs]` and the wet samples `[T, 1]` of a part of a pair."""
    signal = np.array(pairs.signals[k][steps])
    settings = np.broadcast_to(pairs.knobs[k], (len(signal), pairs.knobs.shape[1]))
    return np.concatenate([signal[:, :1], settings], 1), signal[:, 1:]


def _in_powers(pairs: Pairs) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield powers 0 to `order` of the dry samples, `[n, order + 1]`, and the wet samples `[n]`."""
    for signal in pairs.signals:
        for start in range(0, len(signal), BLOCK):
            block: Samples = signal[start : start + BLOCK]
            yield np.vander(block[:, 0].astype(np.float64), _ORDER + 1, increasing=True), block[:, 1].astype(np.float64)
