"""Audio: predict the next sample of a sound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from throughtime.codecs import Codecs
from throughtime.data.audio import Audio, cut, quantize, recordings_of, split_recordings
from throughtime.data.linear_prediction import Mixture, fit_predictor, lagged
from throughtime.data.sound import BLOCK, Recording, are_sounds, common, sound_writer
from throughtime.data.waveform import MOST_CHANNELS, MOST_LEVELS, MOST_RATE, Linear, MuLaw, Quantization, Waveform
from throughtime.errors import DataError, UserError
from throughtime.options import Count
from throughtime.outputs import Categorical
from throughtime.paths import display_path
from throughtime.spelling import option
from throughtime.tasks.base import Data, Figures, Interface, Prediction, Progress, require_known
from throughtime.tasks.streams import StreamOptions, StreamTask

if TYPE_CHECKING:
    from throughtime.nn.sequence_model import SequenceModel

_LAWS: dict[str, type[Quantization]] = {"mu-law": MuLaw, "linear": Linear}
_HELD_OUT = 0.1  # of a single recording
_ORDERS = (2, 16)  # of the linear predictors
_FITTED = 64  # stretches of the training data that baselines are fitted to, at most
_STRETCH = 1 << 14  # samples of such a stretch
_SECONDS = 3  # of a sample


class AudioOptions(StreamOptions):
    """Sound.

    Attributes:
        data: sound files (wav, flac, ogg) and directories of them.
        valid: sounds to validate on; every tenth recording, or the end of a single one, is held out if not given.
        rate: samples per second, to which recordings are resampled; their own if not given.
        channels: mono averages the channels of stereo recordings; those of the recordings if not given.
        quantization: mu-law has finer levels near silence, linear equal ones.
        levels: how many levels a sample is rounded to.
        window: samples of truncated backpropagation through time.
    """

    task: Literal["audio"] = "audio"
    rate: Annotated[int, Field(ge=1, le=MOST_RATE)] | None = None
    channels: Literal["mono", "stereo"] | None = None
    quantization: Literal["mu-law", "linear"] = "mu-law"
    levels: Annotated[int, Field(ge=2, le=MOST_LEVELS)] = 256
    window: Count = 512


class AudioTask(StreamTask[Audio]):
    """Predict the next sample of a sound, quantized, from those before it (van den Oord et al. 2016, arXiv:1609.03499).

    The channels of stereo sound take turns.
    """

    name = "audio"
    about = "predict the next sample of a sound"
    row, element = "sound", "sample"
    Options = AudioOptions
    options: AudioOptions
    defaults: ClassVar = {"hidden_size": 256, "dropout": 0.0, "batch": 32}
    fitting = ("rate", "channels", "quantization", "levels")
    next_commands = ("sample {} --out FILE", "evaluate {} FILE")
    baseline_rows = 1
    extension = ".wav"

    @classmethod
    def speaks_for(cls, options: Mapping[str, Any]) -> str:
        """Sound files, or directories with sound files in them."""
        paths = options.get("data") or ()
        return "sound files" if are_sounds([paths] if isinstance(paths, str | Path) else list(paths)) else ""

    @property
    def unit(self) -> str:
        """A sample."""
        return "sample"

    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> Data[Audio]:
        """See `Task.prepare`."""
        options = self.options
        if options.data is None:
            raise DataError("audio needs data: sound files, or directories of them")
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
        return self._audio(*recordings_of(paths), codecs.inputs, progress)

    def interface(self, codecs: Codecs) -> Interface:
        """See `Task.interface`."""
        return Interface("embedding", codecs.inputs.levels, Categorical(codecs.inputs.levels), causal=True)

    def figures(self, figures: Figures, part: Audio) -> Figures:
        """See `Task.figures`: `loss` in nats and `bits_per_sample`, and how many `samples` were predicted."""
        loss = figures["loss"]
        return {"loss": loss, "bits_per_sample": loss / math.log(2), "samples": int(figures["terms"])}

    def figure_rows(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """See `Task.figure_rows`."""
        return [
            ("bits per sample", f"{figures['bits_per_sample']:.4f}"),
            ("loss", f"{figures['loss']:.4f} nats per sample"),
            ("samples", f"{figures['samples']:,.0f} predicted"),
        ]

    def data_in_words(self, counts: Mapping[str, int]) -> str:
        """See `Task.data_in_words`."""
        rate, channels = counts["rate"], counts["channels"]
        parts = {"train": "for training", "valid": "for validation", "test": "for the test"}
        seconds = {words: counts[part] / rate / channels for part, words in parts.items() if counts.get(part)}
        listed = ", ".join(f"{value:,.1f} s {words}" for words, value in seconds.items())
        return f"{listed}; {rate:,} samples per second, {'mono' if channels == 1 else 'stereo'}"

    def baselines(self, data: Data[Audio]) -> Mapping[str, Any]:
        """Linear predictors with the distribution of their errors, fitted to the training part."""
        codec: Quantization = data.codecs.inputs
        ids = data.train.ids
        starts = np.unique(np.linspace(0, max(0, len(ids) - _STRETCH), _FITTED).astype(np.int64))
        if len(ids) <= _FITTED * _STRETCH:
            starts = np.arange(0, len(ids) - 1, _STRETCH)
        stretches = [ids[start : start + _STRETCH] for start in starts.tolist()]

        def signals() -> list[NDArray[np.float64]]:
            return [_signal(codec, stretch) for stretch in stretches if len(stretch) > 1]

        # Channels take turns, so that the last sample of the same channel is as far back as there are channels.
        last = np.eye(codec.waveform.channels)[-1]
        predictors = {"last sample": last} | {
            f"linear predictor of order {order}": fit_predictor(signals, order) for order in _ORDERS
        }
        fitted = {}
        for name, coefficients in predictors.items():
            bounds = [_error_bounds(codec, stretch, coefficients) for stretch in stretches if len(stretch) > 1]
            every = max(1, sum(len(low) for low, _ in bounds) // 200_000)
            low, high = (np.concatenate(side)[::every] for side in zip(*bounds, strict=True))
            mixture = Mixture.fit(low, high)
            fitted[name] = {
                "coefficients": coefficients.tolist(),
                "scales": mixture.scales.tolist(),
                "weights": mixture.weights.tolist(),
            }
        return fitted

    def baseline_figures(self, fitted: Mapping[str, Any], part: Audio, codecs: Codecs) -> dict[str, Figures]:
        """Linear predictors, the distribution of whose errors is integrated over the levels."""
        found = {}
        for name, fit in fitted.items():
            coefficients = np.asarray(fit["coefficients"], float)
            mixture = Mixture(fit["scales"], fit["weights"])
            nats, context = 0.0, len(coefficients)
            for start in range(0, len(part.ids) - 1, BLOCK):
                before = min(start, context)
                stretch = part.ids[start - before : start + BLOCK + 1]
                low, high = _error_bounds(codecs.inputs, stretch, coefficients)
                nats += mixture.nats(low[before:], high[before:])
            terms = len(part.ids) - 1
            found[name] = self.figures({"loss": nats / terms, "terms": terms}, part)
        return found

    def predict(self, model: SequenceModel, part: Audio, codecs: Codecs) -> Prediction:
        """Each sample with the bits that it cost, given those before it, and the likeliest one."""
        from throughtime.streaming import Stream

        codec: Quantization = codecs.inputs

        def rows() -> Iterator[list[float]]:
            stream = Stream(model)
            for start in range(0, len(part.ids) - 1, _STRETCH):
                ids = part.ids[start : start + _STRETCH + 1]
                scores = stream.process(ids[:-1]).astype(np.float64)
                scores -= scores.max(1, keepdims=True)
                nats = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(scores)), ids[1:]]
                columns = (_signal(codec, ids[1:]), nats / math.log(2), _signal(codec, scores.argmax(1)))
                yield from np.stack(columns, 1).tolist()

        return Prediction(("sample", "bits", "likeliest"), rows())

    def usual_length(self, codecs: Codecs) -> int:
        """Three seconds."""
        waveform = codecs.inputs.waveform
        return int(_SECONDS * waveform.rate * waveform.channels)

    def sample(
        self,
        model: SequenceModel,
        codecs: Codecs,
        prompt: str = "",
        *,
        length: int,
        seed: int = 0,
        temperature: float = 1.0,
        **draw: Any,
    ) -> Iterator[NDArray[np.float32]]:
        """Draws samples of sound, in blocks `[n, channels]`.

        Args:
            model: the network.
            codecs: the quantization.
            prompt: a sound file to continue; the network begins after silence if it is empty.
            length: how many samples to draw, of all channels together.
            seed: of the draws.
            temperature: what the scores are divided by: below 1 is more cautious, 0 takes the likeliest level.

        Raises:
            UserError: an argument means nothing.
            DataError: the prompt can't be read.
        """
        from throughtime.streaming import Stream

        require_known(draw, "temperature")
        if length < 0:
            raise UserError(f"{option('length')} must be at least 0, got {length}")
        codec: Quantization = codecs.inputs
        output, generator = Categorical(codec.levels), np.random.default_rng(seed)
        output.sample(np.zeros(codec.levels), np.random.default_rng(0), temperature)  # refuses a wrong temperature
        begun = self._prompt(prompt, codec) if prompt else codec.encode(np.zeros(codec.waveform.channels))
        stream = Stream(model)

        def blocks() -> Iterator[NDArray[np.float32]]:
            for start in range(0, len(begun), BLOCK):
                scores = stream.process(begun[start : start + BLOCK])[-1]
            channels = codec.waveform.channels
            for start in range(0, length // channels, _STRETCH):
                ids = np.zeros(min(_STRETCH, length // channels - start) * channels, np.int64)
                for k in range(len(ids)):
                    ids[k] = output.sample(scores, generator, temperature)
                    scores = stream.step(int(ids[k]))
                yield codec.decode(ids)

        return blocks()

    def write_sample(self, pieces: Iterable[Any], path: Path, prompt: str, codecs: Codecs | None = None) -> None:
        """Writes the prompt and what follows it as a sound file.

        Raises:
            UserError: the file's name does not end as that of a sound file.
        """
        assert codecs is not None
        codec: Quantization = codecs.inputs
        with sound_writer(path, codec.waveform) as write:
            if prompt:
                for block in Recording.open(prompt).blocks(codec.waveform, mix=self._mixes):
                    write(block)
            for piece in pieces:
                write(piece)

    def pictures(self, model: SequenceModel, untrained: SequenceModel, data: Data[Audio]) -> dict[str, Any]:
        """The reach of the gradient before and after; see `Task.pictures`."""
        from throughtime.sight.gradients.sampling import followed
        from throughtime.sight.report.collect import flows_before_and_after

        return {**flows_before_and_after(model, untrained, followed(self, data.valid))}

    @property
    def _mixes(self) -> bool:
        return self.options.channels == "mono"

    def _prompt(self, path: str, codec: Quantization) -> NDArray[Any]:
        return codec.encode(Recording.open(path).samples(codec.waveform, mix=self._mixes))

    def _codec(self, recordings: Sequence[Recording]) -> Quantization:
        """The quantization that the options and the recordings ask for."""
        options = self.options
        rate = options.rate or common(recordings, "rate")
        if options.channels is None:
            channels = common(recordings, "channels")
            if channels > MOST_CHANNELS:
                raise DataError(
                    f"{recordings[0].name} has {channels} channels: {option('channels')} mono averages them"
                )
        else:
            channels = 1 if options.channels == "mono" else 2
        return _LAWS[options.quantization](Waveform(rate, channels), options.levels)

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
        notes.append(f"{audio.clipped:,} samples were beyond -1 and 1, and were clipped.")
    if audio.silent:
        what = "1 recording is silent" if audio.silent == 1 else f"{audio.silent} recordings are silent"
        notes.append(f"{what} from beginning to end; consider leaving such files out.")
    return notes


def _signal(codec: Quantization, ids: NDArray[Any]) -> NDArray[np.float64]:
    return codec.decode(ids).reshape(-1).astype(np.float64)


def _error_bounds(
    codec: Quantization, ids: NDArray[Any], coefficients: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Between which errors of a linear prediction each level but the first lies."""
    past, _ = lagged(_signal(codec, ids), len(coefficients))
    predicted, edges, levels = past @ coefficients, codec.edges, ids[1:].astype(np.int64)
    return edges[levels] - predicted, edges[levels + 1] - predicted
