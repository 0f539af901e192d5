"""Audio: predict the next sample of a sound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from throughtime.codecs import Codecs
from throughtime.data.audio import Audio, cut, quantize, recordings_of, split_recordings
from throughtime.data.limits import MAX_CHANNELS
from throughtime.data.sound import (
    BLOCK,
    SOUND_FILES,
    Recording,
    are_sounds,
    common,
    seconds_in_words,
    sound_writer,
    warn_of_resampling,
)
from throughtime.data.waveform import Linear, MuLaw, Quantization, Waveform
from throughtime.errors import DataError
from throughtime.outputs import Categorical, LogisticMixture
from throughtime.paths import display_path
from throughtime.spelling import option
from throughtime.tasks.audio_baselines import baseline_nats, fit_baselines, signal_of
from throughtime.tasks.base import Data, Figures, Interface, Prediction, Progress
from throughtime.tasks.generative import Sampling
from throughtime.tasks.options.audio import AudioOptions
from throughtime.tasks.streams import StreamTask

if TYPE_CHECKING:
    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.sight.report.data import Sound
    from throughtime.sight.report.passage import Passage

_QUANTIZATIONS: dict[str, type[Quantization]] = {"mu-law": MuLaw, "linear": Linear}
_HELD_OUT = 0.1  # the fraction of a single recording to hold out
_BLOCK = 1 << 14  # samples to predict or draw at a time
_SECONDS = 3  # the default length of a generated sound, in seconds


class AudioTask(StreamTask[Audio]):
    """Predict the next quantized sample of a sound from the previous ones (van den Oord et al. 2016, arXiv:1609.03499).

    The channels of stereo sound are interleaved.
    """

    name = "audio"
    about = "predict the next sample of a sound"
    row, element = "sound", "sample"
    Options = AudioOptions
    options: AudioOptions
    fitting = ("rate", "channels", "quantization", "levels")
    interfacing = ("output", "components")
    baseline_rows = 1
    extension = ".wav"

    @classmethod
    def detect(cls, options: Mapping[str, Any]) -> str:
        """See `Task.detect`; matches sound files and directories that contain sound files."""
        paths = options.get("data") or ()
        paths = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
        if not are_sounds(paths):
            return ""
        if len(paths) == 2 and not any(path.is_dir() for path in paths):
            return f"sound files; with {option('paired')} the first is the input of a device, the second its output"
        inside = [file for path in paths if path.is_dir() for file in path.iterdir()]
        if sum(file.suffix.lower() in SOUND_FILES for file in inside) < 2:
            return "sound files"
        return f"a folder of sound files; with {option('label_pattern')} their names give labels"

    @property
    def unit(self) -> str:
        """See `Task.unit`."""
        return "sample"

    @property
    def loss_in_words(self) -> str:
        """See `Task.loss_in_words`."""
        return "nats per sample (1 nat is 1.44 bits)"

    def next_commands(self, codecs: Codecs) -> Sequence[str]:
        """See `Task.next_commands`."""
        return "sample {}", "inspect {}"

    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> Data[Audio]:
        """See `Task.prepare`."""
        options = self.options
        if options.data is None:
            raise DataError("audio needs data: pass sound files or directories of them")
        name, recordings = recordings_of(options.data)
        codec = codecs.inputs if codecs else self._codec(recordings)
        parts: dict[str, Audio] = {}
        for part in ("valid", "test"):
            if path := getattr(options, part):
                parts[part] = self._audio(*recordings_of([path]), codec, progress)
        if "valid" in parts:
            parts["train"] = self._audio(name, recordings, codec, progress)
        elif len(recordings) > 1:
            train, valid = split_recordings(name, recordings)
            parts["train"], parts["valid"] = (self._audio(name, side, codec, progress) for side in (train, valid))
        else:
            whole = self._audio(name, recordings, codec, progress)
            parts["train"], parts["valid"] = cut(whole, _HELD_OUT, codec.waveform.channels)
        counts = {part: len(audio.ids) for part, audio in parts.items()}
        digest = "".join(parts[part].digest for part in sorted(parts))
        return Data(
            name,
            Codecs(codec),
            parts["train"],
            parts["valid"],
            parts.get("test"),
            digest,
            {**counts, "rate": codec.waveform.rate, "channels": codec.waveform.channels},
            _notes(parts["train"]),
        )

    def read(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Audio:
        """See `Task.read`."""
        name, recordings = recordings_of(paths)
        warn_of_resampling(recordings, codecs.inputs.waveform.rate)
        return self._audio(name, recordings, codecs.inputs, progress)

    def interface(self, codecs: Codecs) -> Interface:
        """See `Task.interface`."""
        return Interface("embedding", codecs.inputs.levels, self._output(codecs.inputs), causal=True)

    def figures(self, figures: Figures, part: Audio) -> Figures:
        """See `Task.figures`: `loss` in nats, `bits_per_sample`, and the number of predicted `samples`."""
        loss = figures["loss"]
        return {"loss": loss, "bits_per_sample": loss / math.log(2), "samples": int(figures["terms"])}

    @property
    def headline_metric(self) -> str:
        """See `Task.headline_metric`."""
        return "bits_per_sample"

    def figure_rows(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """See `Task.figure_rows`."""
        return [
            ("bits per sample", f"{figures['bits_per_sample']:.4f}"),
            ("samples", f"{figures['samples']:,.0f} predicted"),
        ]

    def data_in_words(self, counts: Mapping[str, int]) -> str:
        """See `Task.data_in_words`."""
        rate, channels = counts["rate"], counts["channels"]
        listed = ", ".join(
            f"{seconds_in_words(counts[part] / channels, rate)} {words}"
            for part, words in self.parts.items()
            if counts.get(part)
        )
        return f"{listed}; {rate:,} samples per second, {'mono' if channels == 1 else 'stereo'}"

    def baselines(self, data: Data[Audio]) -> Mapping[str, Any]:
        """Fit linear predictors and the distributions of their errors to the training part."""
        return fit_baselines(data.codecs.inputs, data.train.ids)

    def baseline_figures(self, fitted: Mapping[str, Any], part: Audio, codecs: Codecs) -> dict[str, Figures]:
        """Evaluate linear predictors by integrating their error distributions over the levels."""
        found = {}
        for name, fit in fitted.items():
            nats = baseline_nats(fit, codecs.inputs, part.ids)
            terms = len(part.ids) - 1
            found[name] = self.figures({"loss": nats / terms, "terms": terms}, part)
        return found

    def predict(self, model: SequenceModel, part: Audio, codecs: Codecs) -> Prediction:
        """Predict each sample: its cost in bits given the previous samples, and the most likely level."""
        from throughtime.streaming import Stream

        codec: Quantization = codecs.inputs

        output = self._output(codec)

        def rows() -> Iterator[list[float]]:
            stream = Stream(model)
            for start in range(0, len(part.ids) - 1, _BLOCK):
                ids = part.ids[start : start + _BLOCK + 1]
                nats, predicted = _cost(output, codec, stream.process(ids[:-1]), ids[1:])
                columns = (signal_of(codec, ids[1:]), nats / math.log(2), predicted)
                yield from np.stack(columns, 1).tolist()

        return Prediction(("value", "bits", "prediction"), rows())

    def default_length(self, codecs: Codecs) -> int:
        """Return the number of samples in 3 seconds of sound, summed over channels."""
        waveform = codecs.inputs.waveform
        return int(_SECONDS * waveform.rate * waveform.channels)

    def sample(
        self, model: SequenceModel, codecs: Codecs, sampling: Sampling, prompt: str = ""
    ) -> Iterator[NDArray[np.float32]]:
        """Continue a sound file or silence, and yield the continuation in blocks `[n, channels]`.

        The requested length is the number of samples summed over channels.
        """
        from throughtime.streaming import Stream

        codec: Quantization = codecs.inputs
        output, generator = self._output(codec), np.random.default_rng(sampling.seed)
        begun = self._prompt(prompt, codec) if prompt else codec.encode(np.zeros(codec.waveform.channels))
        stream = Stream(model)

        def blocks() -> Iterator[NDArray[np.float32]]:
            for start in range(0, len(begun), BLOCK):
                scores = stream.process(begun[start : start + BLOCK])[-1]
            channels = codec.waveform.channels
            frames = sampling.length // channels
            for start in range(0, frames, _BLOCK):
                ids = np.zeros(min(_BLOCK, frames - start) * channels, np.int64)
                for k in range(len(ids)):
                    ids[k] = output.sample(scores, generator, sampling.temperature)
                    scores = stream.step(int(ids[k]))
                yield codec.decode(ids)

        return blocks()

    def write_sample(self, pieces: Iterable[Any], path: Path, prompt: str, codecs: Codecs | None = None) -> None:
        """Write the prompt and its continuation as a sound file.

        Raises:
            UserError: if the path doesn't have the extension of a sound file.
        """
        assert codecs is not None
        codec: Quantization = codecs.inputs
        with sound_writer(path, codec.waveform) as write:
            if prompt:
                for block in Recording.open(prompt).blocks(codec.waveform, mix=self._mixes):
                    write(block)
            for piece in pieces:
                write(piece)

    def passage(self, part: Audio, codecs: Codecs, length: int, name: str) -> Passage:
        """See `Task.passage`; shows the beginning."""
        from throughtime.sight.report.passage import Item, Passage

        ids = np.asarray(part.ids[:length]).astype(np.int64)
        levels = [f"{value:.4f}" for value in signal_of(codecs.inputs, np.arange(codecs.inputs.levels)).tolist()]
        return Passage(name, [Item(ids, ids[1:], name=part.name)], "sample", levels, causal=True, part=part)

    def sounds(self, model: SequenceModel, part: Audio, codecs: Codecs, names: Sequence[str]) -> list[Sound]:
        """See `Task.sounds`: a few seconds with the cost of each sample, and a sound that the network generates."""
        from throughtime.sight.report.data import Sound
        from throughtime.sight.report.passage import short
        from throughtime.sight.report.sound import SECONDS, WINDOW, listen, loudest, means, track

        codec: Quantization = codecs.inputs
        rate, channels = codec.waveform.rate, codec.waveform.channels
        signal = signal_of(codec, part.ids)
        first = loudest(signal, round(SECONDS * rate) * channels) // channels * channels
        ids = np.asarray(part.ids[first : first + round(SECONDS * rate) * channels]).astype(np.int64)

        output = self._output(codec)

        def cost(scores: NDArray[Any], start: int) -> NDArray[Any]:
            nats, predicted = _cost(output, codec, scores, ids[start + 1 : start + 1 + len(scores)])
            return np.stack([nats / math.log(2), predicted], 1)

        found, values = listen(model, ids[: len(ids) - 1], names, cost)
        recorded = signal_of(codec, ids[1:])
        window = max(1, round(WINDOW * rate)) * channels
        bits = means(found[:, 0], window)
        tracks = [track("recording", recorded), track("most likely next sample", found[:, 1])]
        drawn = list(self.sample(model, codecs, self.sampling(codecs)))
        title = f"{short(part.name)}, from {first / rate / channels:.2f} s of the data read"
        return [
            Sound(title, rate * channels, tracks, (0, 1), "bits per sample", bits, window, values),
            Sound("sound generated by the network", rate, [track("generated", np.concatenate(drawn))]),
        ]

    def pictures(self, model: SequenceModel, data: Data[Audio], terms: int) -> dict[str, Any]:
        """See `Task.pictures`: an excerpt of the sound."""
        from throughtime.sight.report.collect import states_of

        return {"sounds": self.sounds(model, data.reported, data.codecs, states_of(model))}

    def _output(self, codec: Quantization) -> Categorical | LogisticMixture:
        if self.options.output == "mixture":
            return LogisticMixture(codec.levels, self.options.components)
        return Categorical(codec.levels)

    @property
    def _mixes(self) -> bool:
        return self.options.channels == "mono"

    def _prompt(self, path: str, codec: Quantization) -> NDArray[Any]:
        return codec.encode(Recording.open(path).samples(codec.waveform, mix=self._mixes))

    def _codec(self, recordings: Sequence[Recording]) -> Quantization:
        """Return the quantization that matches the options and the recordings."""
        options = self.options
        rate = options.rate or common(recordings, "rate")
        if options.channels is None:
            channels = common(recordings, "channels")
            if channels > MAX_CHANNELS:
                raise DataError(
                    f"{recordings[0].name} has {channels} channels; use {option('channels')} mono to average them"
                )
        else:
            channels = 1 if options.channels == "mono" else 2
        return _QUANTIZATIONS[options.quantization](Waveform(rate, channels), options.levels)

    def _audio(
        self, name: str, recordings: Sequence[Recording], codec: Quantization, progress: Progress | None
    ) -> Audio:
        found = quantize(name, recordings, codec, mix=self._mixes, progress=progress)
        if len(found.ids) < 2:
            raise DataError(f"{display_path(name)} has {len(found.ids)} sample; at least 2 are needed")
        return found


def _notes(audio: Audio) -> list[str]:
    notes = []
    if audio.clipped:
        notes.append(f"{audio.clipped:,} samples were outside [-1, 1] and were clipped.")
    if audio.silent:
        what = "1 recording is" if audio.silent == 1 else f"{audio.silent} recordings are"
        notes.append(f"{what} completely silent; consider removing such files.")
    return notes


def _cost(
    output: Categorical | LogisticMixture, codec: Quantization, raw: NDArray[Any], ids: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the cost of samples in nats given the head's raw outputs, and the most likely samples."""
    logs = output.log_probabilities(raw.astype(np.float64))
    return -logs[np.arange(len(logs)), ids], signal_of(codec, logs.argmax(1))
