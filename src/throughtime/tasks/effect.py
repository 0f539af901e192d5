"""Effect: model a device from what went into it and what came out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from throughtime.codecs import Codecs
from throughtime.data.pairs import Pairs, find_pairs, read_pairs
from throughtime.data.segments import Segments, WholeSignals, places
from throughtime.data.sound import BLOCK, SOUND_FILES, Recording, common, find_recordings, sound_writer
from throughtime.data.waveform import MOST_RATE, Samples, Waveform
from throughtime.errors import DataError, UserError
from throughtime.options import Count, Positive, Share
from throughtime.outputs import Signal
from throughtime.paths import display_path
from throughtime.spelling import option
from throughtime.tasks.base import Data, Figures, Interface, Prediction, Progress, Task
from throughtime.tasks.options import TaskOptions

if TYPE_CHECKING:
    from torchmetrics import Metric

    from throughtime.nn.sequence_model import SequenceModel

_PRE_EMPHASIS = 0.85
_ORDER = 7  # of the polynomial
_READ_AT_ONCE = 8192  # steps that are measured at a time
_HEARD = 4096  # samples from which an example is chosen
_TIMED_BLOCK, _TIMED_SECONDS = 64, 0.5  # of the measurement of speed


class EffectOptions(TaskOptions):
    """Pairs of sounds.

    Attributes:
        data: a dry and a wet sound file, or a directory of each with matching names.
        valid: a directory with pairs to validate on, called dry and wet; the end of each pair is held out if not given.
        test: a directory with pairs to measure the trained network on, called dry and wet.
        paired: whether DATA is what went into a device and what came out.
        rate: samples per second, to which sounds are resampled; their own if not given.
        align: auto moves each wet signal by its latency, of up to 100 ms.
        skip: whether the input is added to the output, so that the network learns the difference.
        window: samples of truncated backpropagation through time.
        segment: seconds that the state is carried through in training, from its beginning.
        burn_in: samples at the beginning of a segment that have no loss.
        valid_share: the part at the end of each pair that is held out to select the weights by.
        test_share: the part after that to measure the trained network on.
    """

    task: Literal["effect"] = "effect"
    paired: bool = False
    rate: Annotated[int, Field(ge=1, le=MOST_RATE)] | None = None
    align: Literal["auto", "off"] = "auto"
    skip: bool = True
    window: Count = 1000
    segment: Positive = 0.5
    burn_in: Annotated[int, Field(ge=0)] = 200
    valid_share: Share = 0.1
    test_share: Share = 0.0


class Effect(Task[Pairs]):
    """Predict what comes out of a device, such as an amplifier, sample by sample (Wright et al. 2019, DAFx-19)."""

    name = "effect"
    about = "model a device from its input and output sound"
    Options = EffectOptions
    options: EffectOptions
    defaults: ClassVar = {"hidden_size": 20, "dropout": 0.0, "batch": 50, "optimizer": "adam", "lr": 0.005}
    monitor = "esr"
    fitting = ("rate",)
    interfacing = ("skip",)
    prediction_files = SOUND_FILES
    next_commands = ("predict {} DRY.wav --out WET.wav", "evaluate {} DRY.wav WET.wav")
    baseline_rows = 1

    @classmethod
    def speaks_for(cls, options: Mapping[str, Any]) -> str:
        """Pairs."""
        return "pairs of dry and wet sounds" if options.get("paired") else ""

    @property
    def unit(self) -> str:
        """A sample."""
        return "sample"

    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> Data[Pairs]:
        """See `Task.prepare`."""
        options = self.options
        if options.data is None:
            raise DataError("effect needs data: a dry and a wet sound file, or a directory of each")
        waveform = codecs.inputs if codecs else Waveform(options.rate or _rate_of(options.data))
        whole = self._read(options.data, waveform, progress)
        given = {name: getattr(options, name) for name in ("valid", "test") if getattr(options, name)}
        parts = {name: self._read([path], waveform, progress) for name, path in given.items()}
        shares = {"valid": options.valid_share, "test": options.test_share}
        held = {name: 0.0 if name in parts else share for name, share in shares.items()}
        if sum(held.values()) >= 1:
            raise DataError(
                f"{option('valid_share')} and {option('test_share')} must leave something to train on, got "
                f"{held['valid']:g} and {held['test']:g}"
            )
        if not held["valid"] and "valid" not in parts:
            raise DataError(f"{option('valid_share')} must be above 0, to select the weights by")
        first, last = 1 - held["valid"] - held["test"], 1 - held["test"]
        bounds = {"train": (0.0, first), "valid": (first, last), "test": (last, 1.0)}
        for name, (start, stop) in bounds.items():
            if start < stop and name not in parts:
                parts[name] = _stretch(whole, start, stop)
        counts = {name: part.samples for name, part in parts.items()}
        digest = "".join(parts[name].digest for name in sorted(parts))
        return Data(
            whole.name,
            Codecs(waveform),
            parts["train"],
            parts["valid"],
            parts.get("test"),
            digest,
            {**counts, "rate": waveform.rate},
            whole.notes,
        )

    def read(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Pairs:
        """See `Task.read`."""
        return self._read(paths, codecs.inputs, progress)

    def read_inputs(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Pairs:
        """See `Task.read_inputs`: dry sounds alone."""
        recordings = find_recordings(paths)
        dry = [recording.samples(codecs.inputs) for recording in recordings]
        signals = [np.concatenate([samples, np.zeros_like(samples)], 1) for samples in dry]
        digest = "".join(recording.digest for recording in recordings)
        return Pairs(recordings[0].name, signals, codecs.inputs.rate, digest)

    def interface(self, codecs: Codecs) -> Interface:
        """See `Task.interface`."""
        return Interface("numeric", 1, Signal(1, _PRE_EMPHASIS), causal=True, skip=self.options.skip)

    def batches(self, part: Pairs, batch: int, *, seed: int = 0, rank: int = 0, ranks: int = 1) -> Segments:
        """Segments of the pairs, in windows through which the state is carried."""
        return Segments(part.signals, batch, **self._cuts(part), seed=seed, rank=rank, ranks=ranks)

    def reading(
        self, part: Pairs, batch: int = 1, *, terms: int | None = None, rank: int = 0, ranks: int = 1
    ) -> WholeSignals:
        """The pairs one after another, whole; each process reads all of them."""
        return WholeSignals(part.signals, _READ_AT_ONCE, terms)

    def fitting_batch(self, data: Data[Pairs], batch: int, ranks: int) -> int:
        """As many segments as there are, at most."""
        count = len(places(data.train.signals, **self._cuts(data.train)))
        fitting = min(batch, count) // ranks * ranks
        if fitting < 1:
            raise DataError(f"{data.name} has {count} segments, fewer than the {ranks} processes that would share them")
        return fitting

    def metrics(self, codecs: Codecs) -> Mapping[str, Metric]:
        """The error-to-signal ratio, plain and pre-emphasized, and the mean absolute error."""
        from throughtime.tasks.metrics import AbsoluteError, ErrorToSignal

        return {"esr": ErrorToSignal(), "esr_pre_emphasized": ErrorToSignal(_PRE_EMPHASIS), "mae": AbsoluteError()}

    def figures(self, figures: Figures, part: Pairs) -> Figures:
        """See `Task.figures`.

        Returns:
            `loss`; `esr` and `esr_pre_emphasized`, the energy of the error as a share of the wet signal's; `mae_db`,
            the mean absolute error in decibels of full scale; and how many `samples` there were.
        """
        found = {name: value for name, value in figures.items() if name not in ("terms", "mae")}
        return {**found, "mae_db": 20 * math.log10(max(figures["mae"], 1e-10)), "samples": int(figures["terms"])}

    def usage_figures(self, model: SequenceModel, codecs: Codecs) -> Figures:
        """How many seconds of sound `Stream` computes in a second of one core, in blocks of 64 samples."""
        from throughtime.streaming import Stream

        stream, rate = Stream(model), codecs.inputs.rate
        block = np.random.default_rng(0).uniform(-0.5, 0.5, _TIMED_BLOCK).astype(stream.dtype)
        stream.process(block)
        began, count = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < _TIMED_SECONDS:
            for _ in range(20):
                stream.process(block)
            count += 20
        return {"real_time_factor": count * _TIMED_BLOCK / rate / passed}

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
            rows.append(("speed", f"{figures['real_time_factor']:,.0f} times real time on one core, as a stream"))
        return rows

    def data_in_words(self, counts: Mapping[str, int]) -> str:
        """See `Task.data_in_words`."""
        parts = {"train": "for training", "valid": "for validation", "test": "for the test"}
        rate = counts["rate"]
        listed = ", ".join(f"{counts[part] / rate:,.1f} s {words}" for part, words in parts.items() if counts.get(part))
        return f"{listed}; {rate:,} samples per second"

    def baselines(self, data: Data[Pairs]) -> Mapping[str, Any]:
        """The dry signal scaled to fit, and a polynomial of it: what a device without memory could do."""
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
        """Functions of the dry sample alone."""
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
        """The samples that went in, and those that come out, one row each."""
        from throughtime.streaming import Stream

        def rows() -> Iterator[list[float]]:
            stream = Stream(model)
            for signal in part.signals:
                stream.reset()
                for start in range(0, len(signal), BLOCK):
                    dry = np.ascontiguousarray(signal[start : start + BLOCK, 0], stream.dtype)
                    yield from np.stack([dry, stream.process(dry)], 1).tolist()

        return Prediction(("dry", "wet"), rows())

    def example(self, model: SequenceModel, data: Data[Pairs]) -> str:
        """The loudest sample of the beginning of the held-out sound, as it comes out of the network and the device."""
        import torch

        parameter = next(model.parameters())
        pair = np.array(data.valid.signals[0][:_HEARD])
        loudest = int(np.abs(pair[:, 1]).argmax())
        dry = torch.from_numpy(pair[: loudest + 1, :1])[:, None].to(parameter.device, parameter.dtype)
        with torch.no_grad():
            raw, _ = model(dry)
        return (
            f"{pair[loudest, 0]:.3f} at {loudest / data.valid.rate:.3f} s -> {float(raw[-1, 0, 0]):.3f} "
            f"(recorded: {pair[loudest, 1]:.3f})"
        )

    def write_prediction(
        self, model: SequenceModel, paths: Sequence[str | Path], codecs: Codecs, out: Path, progress: Progress | None
    ) -> str:
        """Writes what comes out of the device for a dry sound file, block by block."""
        from throughtime.streaming import Stream

        if len(paths) != 1 or Path(paths[0]).is_dir():
            raise UserError(f"{display_path(out)} is one sound: give one dry sound file to process")
        waveform: Waveform = codecs.inputs
        dry = Recording.open(paths[0])
        stream, count = Stream(model), 0
        with sound_writer(out, waveform) as write:
            for block in dry.blocks(waveform):
                write(stream.process(block.astype(stream.dtype, copy=False)))
                count += len(block)
                if progress:
                    progress("processing", count, round(dry.seconds * waveform.rate))
        resampled = f", resampled from {dry.rate}" if dry.rate != waveform.rate else ""
        return f"{count / waveform.rate:,.2f} s of sound, {waveform.rate:,} samples per second{resampled},"

    def _read(self, paths: Sequence[str | Path], waveform: Waveform, progress: Progress | None) -> Pairs:
        return read_pairs(paths, waveform, align=self.options.align == "auto", progress=progress)

    def _cuts(self, part: Pairs) -> dict[str, int]:
        """Steps of a segment, a window and the burn-in; a segment is no longer than the longest signal."""
        options = self.options
        segment = min(round(options.segment * part.rate), max(map(len, part.signals)))
        return {"segment": segment, "window": options.window, "burn_in": options.burn_in}


def _rate_of(paths: Sequence[str | Path]) -> int:
    """The rate of pairs.

    Raises:
        DataError: they differ.
    """
    return common([dry for dry, _ in find_pairs(paths)], "rate")


def _stretch(pairs: Pairs, start: float, stop: float) -> Pairs:
    """The same part of each pair."""
    signals = [signal[round(start * len(signal)) : round(stop * len(signal))] for signal in pairs.signals]
    if not all(map(len, signals)):
        raise DataError(f"{pairs.name} is too short to hold out a part of it")
    return Pairs(pairs.name, signals, pairs.rate, f"{pairs.digest}[{start:.6f}:{stop:.6f}]")


def _in_powers(pairs: Pairs) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The powers of the dry samples `[n, order + 1]`, from 0 on, and the wet samples `[n]`."""
    for signal in pairs.signals:
        for start in range(0, len(signal), BLOCK):
            block: Samples = signal[start : start + BLOCK]
            yield np.vander(block[:, 0].astype(np.float64), _ORDER + 1, increasing=True), block[:, 1].astype(np.float64)
