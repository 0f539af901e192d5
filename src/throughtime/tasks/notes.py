"""Notes: predict which of a piano's 88 keys sound at the next step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from throughtime.codecs import Codecs
from throughtime.data.midi import KEYS, LOWEST, write_midi
from throughtime.data.rolls import MIDI_FILES, Roll, read_pieces, read_rolls
from throughtime.data.sequences import Sequences
from throughtime.errors import DataError, UserError
from throughtime.outputs import Bernoulli
from throughtime.paths import display_path
from throughtime.spelling import counted
from throughtime.tasks.base import Data, Figures, Interface, Prediction, Progress
from throughtime.tasks.generative import Generative, Sampling
from throughtime.tasks.options.notes import NotesOptions
from throughtime.tasks.sequences import SequenceTask, all_raw_outputs

if TYPE_CHECKING:
    from torchmetrics import Metric

    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.sight.report.passage import Passage

_ARRAYS = (".mat", ".npz")
_BEAT = 1.0  # seconds per beat in a sample
_SHOWN, _LONGEST = 3, 200  # pieces in a report, and the maximum number of their steps
_NOTES = ("C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B")

KEY_NAMES = tuple(f"{_NOTES[key % 12]}{key // 12 - 1}" for key in range(LOWEST, LOWEST + KEYS))
"""The names of the keys from the lowest, A0, to the highest, C8."""


class Notes(SequenceTask, Generative[Sequences]):
    """Predict the keys that sound at the next step of a piece, as 88 independent bits.

    The loss is in nats per predicted step. A piece's first step isn't predicted (Bai et al. 2018, arXiv:1803.01271).
    """

    name = "notes"
    about = "predict which of a piano's keys sound next"
    Options = NotesOptions
    options: NotesOptions
    interfacing = ()
    extension = ".mid"

    @classmethod
    def detect(cls, options: Mapping[str, Any]) -> str:
        """See `Task.detect`; matches piano rolls, MIDI files, and folders with MIDI files up to one level below."""
        paths = options.get("data") or ()
        paths = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
        if paths and all(path.suffix.lower() in _ARRAYS for path in paths):
            return "a file of piano rolls"
        for path in paths:
            inside = [path] if not path.is_dir() else [*path.glob("*"), *path.glob("*/*")]
            if not any(file.suffix.lower() in MIDI_FILES for file in inside):
                return ""
        return "MIDI files" if paths else ""

    @classmethod
    def reads_test_part(cls, paths: Sequence[str | Path]) -> bool:
        """See `Task.reads_test_part`; .mat files have a test part."""
        return all(Path(path).suffix.lower() == ".mat" for path in paths)

    def next_commands(self, codecs: Codecs) -> Sequence[str]:
        """See `Task.next_commands`."""
        return "sample {}", *super().next_commands(codecs)

    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> Data[Sequences]:
        """See `Task.prepare`."""
        options = self.options
        if options.data is None:
            raise DataError("notes needs data: pass piano rolls (.mat or .npz), MIDI files, or a folder of them")
        rolls = read_rolls(options.data, step=options.step, valid=options.valid, test=options.test)
        parts = {name: _sequences(rolls.name, getattr(rolls, name)) for name in ("train", "valid", "test")}
        counts = {name: len(part) for name, part in parts.items()}
        steps = sum(int(part.lengths.sum()) for part in parts.values())
        digest = "".join(part.digest for part in parts.values())
        return Data(
            rolls.name,
            Codecs(),
            parts["train"],
            parts["valid"],
            parts["test"],
            digest,
            {**counts, "steps": steps},
            rolls.notes,
        )

    def read(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Sequences:
        """See `Task.read`; reads the test part of data that are already split."""
        pieces = read_pieces(paths, step=self.options.step)
        return _sequences(pieces.name, *pieces.part("test"))

    def read_inputs(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Sequences:
        """See `Task.read_inputs`; reads all parts."""
        pieces = read_pieces(paths, step=self.options.step)
        return _sequences(pieces.name, *pieces.part(None))

    def interface(self, codecs: Codecs) -> Interface:
        """See `Task.interface`."""
        return Interface("numeric", KEYS, Bernoulli(KEYS), causal=True)

    def metrics(self, codecs: Codecs) -> Mapping[str, Metric]:
        """Return the frame-level accuracy (Bay et al. 2009)."""
        from throughtime.tasks.metrics import FrameAccuracy

        return {"frame_accuracy": FrameAccuracy()}

    def figures(self, figures: Figures, part: Sequences) -> Figures:
        """See `Task.figures`: `loss` in nats per step, `frame_accuracy`, and the number of predicted `steps`."""
        found = {name: value for name, value in figures.items() if name != "terms"}
        return {**found, "steps": int(figures["terms"])}

    def figure_rows(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """See `Task.figure_rows`."""
        return [
            ("loss", f"{figures['loss']:.4f} nats per step"),
            ("frame accuracy", f"{figures['frame_accuracy']:.2%}"),
            ("steps", f"{figures['steps']:,.0f} predicted"),
        ]

    def data_in_words(self, counts: Mapping[str, int]) -> str:
        """See `Task.data_in_words`."""
        return f"pieces: {super().data_in_words(counts)}; {counted(counts['steps'], 'step')}"

    def baselines(self, data: Data[Sequences]) -> Mapping[str, Any]:
        """Count how often each key sounds in the training part."""
        targets = np.concatenate(list(data.train.targets))
        return {"sounding": targets.sum(0, dtype=np.int64).tolist(), "steps": len(targets)}

    def baseline_figures(self, fitted: Mapping[str, Any], part: Sequences, codecs: Codecs) -> dict[str, Figures]:
        """Evaluate the baseline: key frequencies with add-one (Laplace) smoothing."""
        chances = (np.asarray(fitted["sounding"], float) + 1) / (fitted["steps"] + 2)
        targets = np.concatenate(list(part.targets))
        nats = -np.where(targets > 0, np.log(chances), np.log1p(-chances)).sum(1)
        found, true = np.broadcast_to(chances > 0.5, targets.shape), targets > 0
        accuracy = (found & true).sum() / max(1, (found | true).sum())
        figures = {"loss": float(nats.mean()), "frame_accuracy": float(accuracy), "terms": len(targets)}
        return {"keys by frequency": self.figures(figures, part)}

    def predict(self, model: SequenceModel, part: Sequences, codecs: Codecs) -> Prediction:
        """Predict the probability of each key at every step of a piece except the first, given the previous steps."""
        output = Bernoulli(KEYS)

        def rows() -> Iterator[list[Any]]:
            for name, raw in zip(part.names, all_raw_outputs(model, part), strict=True):
                for step, probabilities in enumerate(output.probabilities(raw).tolist(), 1):
                    yield [name, step, *probabilities]

        return Prediction(("sequence", "step", *(f"key{LOWEST + k}" for k in range(KEYS))), rows())

    def outcome(self, model: SequenceModel, part: Sequences, codecs: Codecs) -> dict[str, Any]:
        """Return piano rolls of the first pieces with the probability that the network predicted for each key."""
        from throughtime.sight.report.data import Roll

        shown = part.take(range(min(_SHOWN, len(part))))
        output = Bernoulli(KEYS)
        rolls = [
            Roll(f"Piece {name}", KEY_NAMES, target[:_LONGEST], output.probabilities(raw)[:_LONGEST])
            for name, target, raw in zip(shown.names, shown.targets, all_raw_outputs(model, shown), strict=True)
        ]
        return {"rolls": rolls}

    def features(self, codecs: Codecs) -> Sequence[str]:
        """Return the names of the keys."""
        return KEY_NAMES

    def read_passage(
        self, paths: Sequence[str | Path], codecs: Codecs, length: int, progress: Progress | None = None
    ) -> Passage:
        """See `Task.read_passage`."""
        pieces = read_pieces(paths, step=self.options.step)
        return self.passage(_sequences(pieces.name, *pieces.part("test")), codecs, length, pieces.name)

    def sample(
        self, model: SequenceModel, codecs: Codecs, sampling: Sampling, prompt: str = ""
    ) -> Iterator[NDArray[np.int64]]:
        """Yield the steps that continue the piece in a file, or silence; each is an array `[88]` of 0s and 1s.

        Raises:
            DataError: if the prompt can't be read or has more than one piece.
        """
        import torch

        output, generator = Bernoulli(KEYS), np.random.default_rng(sampling.seed)
        begun = self._prompt(prompt) if prompt else np.zeros((1, KEYS), np.uint8)
        parameter = next(model.parameters())

        def steps() -> Iterator[NDArray[np.int64]]:
            inputs, state = begun, None
            for _ in range(sampling.length):
                numbers = torch.from_numpy(np.asarray(inputs)).to(parameter.device, parameter.dtype)
                with torch.no_grad():
                    raw, state = model(numbers[:, None], state)
                keys = output.sample(raw[-1, 0].double().cpu().numpy(), generator, sampling.temperature)
                inputs = keys[None]
                yield keys

        return steps()

    def write_sample(self, pieces: Iterable[Any], path: Path, prompt: str, codecs: Codecs | None = None) -> None:
        """Write the prompt and its continuation as MIDI at 60 beats per minute.

        Raises:
            UserError: if the path doesn't end in .mid, or mido is not installed.
        """
        if path.suffix.lower() not in MIDI_FILES:
            raise UserError(f"{display_path(path)} must end in {self.extension}; samples of task notes are MIDI files")
        begun = self._prompt(prompt) if prompt else np.zeros((0, KEYS), np.uint8)
        roll = np.concatenate([begun, np.asarray(list(pieces), np.uint8).reshape(-1, KEYS)])
        write_midi(roll, path, step_seconds=self.options.step * _BEAT)

    def _prompt(self, path: str) -> NDArray[np.uint8]:
        rolls, _ = read_pieces(path, step=self.options.step).part("")
        if len(rolls) != 1:
            raise DataError(f"{display_path(path)} has {len(rolls)} pieces; expected a file with one piece to continue")
        return rolls[0]


def _sequences(name: str, rolls: Sequence[Roll], names: Sequence[str] = ()) -> Sequences:
    """Return pieces as sequences in which the target of each step is the next step."""
    kept = [k for k, roll in enumerate(rolls) if len(roll) > 1]
    if not kept:
        raise DataError(f"{name}: no piece has at least 2 steps, so there is nothing to predict")
    return Sequences(
        [rolls[k][:-1].astype(np.float32) for k in kept],
        [rolls[k][1:].astype(np.float32) for k in kept],
        names=[names[k] for k in kept] if names else (),
    )
