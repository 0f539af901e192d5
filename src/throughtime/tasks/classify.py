"""Classify: predict one label for each sequence."""

from __future__ import annotations

import logging
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from throughtime.codecs import Codecs
from throughtime.data.augmentation import SoundFeatures, copies, copies_of
from throughtime.data.labeled import GAP, Labeled, is_table, read_labeled
from throughtime.data.labeled_sounds import hold_sounds, read_labeled_sounds
from throughtime.data.labels import Labels
from throughtime.data.log_mel import LogMel
from throughtime.data.raw_samples import RawSamples
from throughtime.data.scaler import Scaler
from throughtime.data.sequences import Sequences
from throughtime.data.sound import common
from throughtime.data.splits import require_shares, split
from throughtime.data.table import TABLES
from throughtime.data.vocabulary import build_vocabulary
from throughtime.data.waveform import Waveform
from throughtime.errors import DataError
from throughtime.levels import UNITS
from throughtime.outputs import Categorical
from throughtime.paths import joint_name
from throughtime.spelling import counted, option
from throughtime.tasks.base import Data, Figures, Interface, Prediction, Progress
from throughtime.tasks.options.classify import ClassifyOptions
from throughtime.tasks.sequences import SequenceTask, all_raw_outputs

if TYPE_CHECKING:
    from torchmetrics import Metric

    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.sight.report.passage import Passage

_log = logging.getLogger("throughtime")
_MAX_NAMED = 5  # groups
_SHOWN = 40  # characters of an example to print


class Classify(SequenceTask):
    """Predict the label of each sequence."""

    name = "classify"
    about = "predict the label of each sequence"
    Options = ClassifyOptions
    options: ClassifyOptions
    monitor = "accuracy"
    maximize = True
    fitting = ("min_count", "rate", "features", "frame", "normalize", "bands")
    interfacing = ("level",)

    @classmethod
    def detect(cls, options: Mapping[str, Any]) -> str:
        """See `Task.detect`; matches a label column or pattern, or a folder that contains only folders."""
        if options.get("label"):
            return f"{option('label')} is set"
        if options.get("label_pattern"):
            return f"{option('label_pattern')} is set"
        paths = options.get("data") or ()
        paths = [paths] if isinstance(paths, str | Path) else list(paths)
        if len(paths) == 1 and Path(paths[0]).is_dir():
            inside = [path for path in Path(paths[0]).iterdir() if not path.name.startswith(".")]
            if inside and all(path.is_dir() for path in inside):
                return "a folder with one folder per label"
        return ""

    @property
    def unit(self) -> str:
        """See `Task.unit`."""
        return "sequence"

    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> Data[Sequences]:
        """See `Task.prepare`."""
        options = self.options
        if options.data is None:
            raise DataError("classify needs data: pass a folder with one file or folder per label, or a table")
        found = self._read(options.data, 2, codecs)
        labels = codecs.targets if codecs else Labels.of(found.labels)
        ids = labels.encode(found.labels, found.source)
        notes = list(found.notes)
        train = np.arange(len(found))
        held: dict[str, Any] = {}
        require_shares(options.valid_share, options.test_share)
        for name, share in (("test", options.test_share), ("valid", options.valid_share)):
            if getattr(options, name) is None and (share or name == "valid"):
                groups = None if found.groups is None else [found.groups[k] for k in train]
                of_rest = share / (1 - options.test_share * (name == "valid"))
                sides = split(ids[train], groups, of_rest, 0, labels.names)
                if groups is not None:
                    notes += _held_groups(name, {groups[k] for k in sides.valid})
                held[name], train = train[sides.valid], train[sides.train]
                notes += sides.notes
        inputs = codecs.inputs if codecs else self._fitted(found, train)
        fitted = Codecs(inputs, labels)
        whole = self._encoded(found, fitted)
        parts = {name: whole.take(rows) for name, rows in held.items()}
        for name in ("valid", "test"):
            path = getattr(options, name)
            if path is not None:
                parts[name] = self._encoded(self._read([path], 1, fitted), fitted)
        training, more = self._augmented(found, train, whole.take(train), fitted)
        notes += more
        if options.class_weights == "balanced":
            training = replace(training, weights=_balanced(np.asarray(training.targets)))
        counts = {"train": len(train), **{name: len(part) for name, part in parts.items()}, "labels": len(labels)}
        digest = "".join(part.digest for part in (training, *parts.values()))
        return Data(found.name, fitted, training, parts["valid"], parts.get("test"), digest, counts, notes)

    def read(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Sequences:
        """See `Task.read`."""
        return _reported(self._encoded(self._read(paths, 1, codecs), codecs), codecs)

    def read_inputs(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Sequences:
        """See `Task.read_inputs`; labels are ignored."""
        return _reported(self._encoded(replace(self._read(paths, 0, codecs), labels=[]), codecs), codecs)

    def interface(self, codecs: Codecs) -> Interface:
        """See `Task.interface`."""
        output = Categorical(len(codecs.targets))
        if isinstance(codecs.inputs, SoundFeatures):
            return Interface("numeric", codecs.inputs.size, output, per_step=False)
        if isinstance(codecs.inputs, Scaler):
            others = (GAP,) if self.options.gaps else ()
            return Interface("numeric", len(codecs.inputs.mean), output, per_step=False, step_inputs=others)
        return Interface("embedding", codecs.inputs.size, output, per_step=False)

    def metrics(self, codecs: Codecs) -> Mapping[str, Metric]:
        """Return the accuracy and the macro-averaged F1 score."""
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

        count = len(codecs.targets)
        return {
            "accuracy": MulticlassAccuracy(count, average="micro"),
            "macro_f1": MulticlassF1Score(count, average="macro"),
        }

    def figures(self, figures: Figures, part: Sequences) -> Figures:
        """See `Task.figures`: `loss` in nats, `accuracy`, `macro_f1`, and the number of `sequences`."""
        return {name: value for name, value in figures.items() if name != "terms"} | {"sequences": len(part)}

    def figure_rows(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """See `Task.figure_rows`."""
        rows = [("accuracy", f"{figures['accuracy']:.2%}"), ("macro F1", f"{figures['macro_f1']:.4f}")]
        if "loss" in figures:
            rows.append(("loss", f"{figures['loss']:.4f} nats per sequence"))
        if "sequences" in figures:
            rows.append(("sequences", f"{figures['sequences']:,.0f}"))
        return rows

    def data_in_words(self, counts: Mapping[str, int]) -> str:
        """See `Task.data_in_words`."""
        return f"sequences: {super().data_in_words(counts)}; {counted(counts['labels'], 'label')}"

    def baselines(self, data: Data[Sequences]) -> Mapping[str, Any]:
        """Find the most frequent label of the training part."""
        return {"majority": int(Counter(np.asarray(data.train.targets).tolist()).most_common(1)[0][0])}

    def baseline_figures(self, fitted: Mapping[str, Any], part: Sequences, codecs: Codecs) -> dict[str, Figures]:
        """Evaluate the baseline, which always predicts the most frequent label."""
        from sklearn.metrics import f1_score

        targets = np.asarray(part.targets)
        always = np.full_like(targets, fitted["majority"])
        f1 = f1_score(targets, always, average="macro", zero_division=0)
        name = f"always {codecs.targets.names[fitted['majority']]}"
        return {name: {"accuracy": float((targets == always).mean()), "macro_f1": float(f1)}}

    def predict(self, model: SequenceModel, part: Sequences, codecs: Codecs) -> Prediction:
        """Predict the most likely label of each sequence and the probability of every label."""
        output = Categorical(len(codecs.targets))

        def rows() -> Iterator[list[Any]]:
            for name, raw in zip(part.names, all_raw_outputs(model, part), strict=True):
                probabilities = output.probabilities(raw)
                yield [name, codecs.targets.names[int(probabilities.argmax())], *probabilities.tolist()]

        return Prediction(("sequence", "label", *codecs.targets.names), rows())

    def example(self, model: SequenceModel, data: Data[Sequences]) -> str:
        """Return the predicted label of a held-out sequence, and whether it is correct."""
        one = data.valid.take([len(data.valid) // 2])
        names = data.codecs.targets.names
        probabilities = Categorical(len(names)).probabilities(all_raw_outputs(model, one)[0])
        found, true = int(probabilities.argmax()), int(one.targets[0])
        text = textwrap.shorten(_Texts(one, data.codecs)[0], _SHOWN, placeholder="...")
        answer = "correct" if found == true else f"correct: {names[true]!r}"
        return f"{text!r} -> {names[found]!r} {probabilities[found]:.0%} ({answer})"

    def outcome(self, model: SequenceModel, part: Sequences, codecs: Codecs) -> dict[str, Any]:
        """Return the confusion matrix, precision and recall per label, and the worst mistakes."""
        from throughtime.sight.report.outcome import label_results

        raw = np.stack(all_raw_outputs(model, part))
        probabilities = Categorical(len(codecs.targets)).probabilities(raw)
        texts = _Texts(part, codecs)
        return label_results(codecs.targets.names, np.asarray(part.targets), probabilities, texts, "sequences")

    def step_name(self, codecs: Codecs) -> str:
        """Return "character" or "word" for text and "step" for numbers."""
        return "step" if _numeric(codecs) else UNITS[self.options.level]

    def features(self, codecs: Codecs) -> Sequence[str]:
        """See `SequenceTask.features`."""
        if isinstance(codecs.inputs, SoundFeatures):
            kind = "mel band" if isinstance(codecs.inputs, LogMel) else "sample"
            return [f"{kind} {k}" for k in range(codecs.inputs.size)]
        return super().features(codecs)

    def tokens(self, part: Sequences, k: int, codecs: Codecs) -> Sequence[str] | None:
        """See `SequenceTask.tokens`."""
        if _numeric(codecs):
            return None
        return [codecs.inputs.tokens[id] for id in part.inputs[k]]

    def unknown(self, part: Sequences, k: int, codecs: Codecs) -> NDArray[Any] | None:
        """See `SequenceTask.unknown`."""
        from throughtime.sight.report.passage import unknown_of

        return None if _numeric(codecs) else unknown_of(part.inputs[k], codecs.inputs)

    def read_passage(
        self, paths: Sequence[str | Path], codecs: Codecs, length: int, progress: Progress | None = None
    ) -> Passage:
        """See `Task.read_passage`; labels may be missing."""
        found = self._read(paths, 0, codecs)
        return self.passage(self._encoded(found, codecs), codecs, length, found.name, answered=bool(found.labels))

    def text_passage(self, text: str, codecs: Codecs, length: int) -> Passage:
        """See `Task.text_passage`; each line is one sequence."""
        if _numeric(codecs):
            return super().text_passage(text, codecs, length)
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines:
            raise DataError("the text is empty; at least 1 character is needed")
        ids = [codecs.inputs.encode(line) for line in lines]
        part = Sequences(ids, np.zeros(len(ids), np.int64), names=lines)
        return self.passage(part, codecs, length, "your text", answered=False)

    def _read(self, paths: Sequence[str | Path], min_labels: int, codecs: Codecs | None = None) -> Labeled:
        """Read labeled data: those that the options describe, or data for a network with the given codecs."""
        options = self.options
        if options.label_pattern is not None or hold_sounds(paths):
            of_table = {"label": options.label, "text": options.text, "group": options.group, "time": options.time}
            for name, value in {**of_table, "gaps": options.gaps or None, "columns": options.columns}.items():
                if value is not None:
                    raise DataError(f"{option(name)} names a table column, but the data are sounds; remove it")
            return read_labeled_sounds(
                paths, label_pattern=options.label_pattern, group_by=options.group_by, min_labels=min_labels
            )
        given = paths[0] if len(paths) == 1 else list(paths)
        if codecs is not None and options.text is not None and not is_table(given):  # a text file is as good
            return read_labeled(given, encoding_errors=options.encoding_errors, min_labels=min_labels)
        if codecs is not None and not _numeric(codecs) and options.text is None and is_table(given):
            raise DataError(
                f"{joint_name(paths)} is a table, but this network reads text files with one sequence per line"
            )
        columns = None if options.columns is None else [name.strip() for name in options.columns.split(",")]
        if codecs is not None and isinstance(codecs.inputs, Scaler):
            columns = list(codecs.inputs.names[: -1 if options.gaps else None])
            if not is_table(given):
                raise DataError(
                    f"{joint_name(paths)} is not a table ({', '.join(TABLES)}); this network reads tables with the "
                    f"columns {', '.join(map(repr, columns))}"
                )
        return read_labeled(
            given,
            label=options.label,
            text=options.text,
            group=options.group,
            time=options.time,
            gaps=options.gaps,
            columns=columns,
            group_by=options.group_by,
            trained=codecs is not None,
            encoding_errors=options.encoding_errors,
            min_labels=min_labels,
        )

    def _fitted(self, found: Labeled, train: Any) -> Any:
        """Return the input codec, fitted to the training part."""
        if found.recordings is not None:
            rate = self.options.rate or common(found.recordings, "rate")
            level = self.options.normalize != "none"
            raw = self.options.features == "raw"
            if raw and self.options.normalize == "level":
                raise DataError(f"{option('normalize')} level is only for log-mel features; remove it")
            unfitted: SoundFeatures = (
                RawSamples(Waveform(rate), self.options.frame)
                if raw
                else LogMel.at(rate, self.options.bands, level=level)
            )
            return unfitted.fit([found.recordings[k].samples(unfitted.waveform, mix=True) for k in train])
        if found.series is not None:
            scaler = Scaler.fit([found.series[k] for k in train], found.features)
            return _with_gaps(scaler, [found.series[k] for k in train]) if self.options.gaps else scaler
        assert found.texts is not None
        texts = (found.texts[k] + "\n" for k in train)
        return build_vocabulary(self.options.level, texts, min_count=self.options.min_count)

    def _augmented(
        self, found: Labeled, train: NDArray[np.int64], part: Sequences, codecs: Codecs
    ) -> tuple[Sequences, list[str]]:
        """Return the training part with augmented copies of its recordings, and notes for the user."""
        if found.recordings is None:
            return part, []
        count = copies_of(len(train)) if self.options.augment is None else self.options.augment
        if count == 0:
            return part, []
        sounds = [found.recordings[k].samples(codecs.inputs.waveform, mix=True) for k in train]
        rows, inputs = zip(*copies(sounds, codecs.inputs, count), strict=True)
        own = part.take([*range(len(part)), *rows])
        note = f"Training includes {count} augmented copies of each recording; {option('augment')} 0 turns this off."
        return replace(own, inputs=[*part.inputs, *inputs]), [note]

    def _encoded(self, found: Labeled, codecs: Codecs) -> Sequences:
        if isinstance(codecs.inputs, SoundFeatures) != (found.recordings is not None):
            kinds = ("sounds", "other data") if found.recordings is not None else ("not sounds", "sounds")
            raise DataError(f"{found.name}: the data are {kinds[0]}, but the network was trained on {kinds[1]}")
        if found.recordings is not None:
            waveform = codecs.inputs.waveform
            inputs = [codecs.inputs.encode(sound.samples(waveform, mix=True)) for sound in found.recordings]
        elif found.series is not None:
            inputs = [codecs.inputs.encode(series) for series in found.series]
        else:
            inputs = [codecs.inputs.encode(text) for text in found.texts or ()]
        labels = codecs.targets.encode(found.labels, found.source) if found.labels else np.zeros(len(found), np.int64)
        return Sequences(inputs, labels, names=found.names, groups=found.groups, features=found.features)


def _reported(part: Sequences, codecs: Codecs) -> Sequences:
    """Return sequences after warning about tokens that are not in the vocabulary."""
    vocabulary = codecs.inputs
    if not _numeric(codecs) and vocabulary.unknown is not None:
        unknown = sum(int((ids == vocabulary.unknown).sum()) for ids in part.inputs)
        if unknown:
            whole = counted(int(part.lengths.sum()), UNITS[vocabulary.level])
            _log.warning("%s of %s not seen in training, read as <unk>", f"{unknown:,}", whole)
    return part


def _held_groups(part: str, groups: Set[str]) -> list[str]:
    """Say which groups are held out, if they are few."""
    if len(groups) > _MAX_NAMED:
        return []
    return [f"held out for {'the test' if part == 'test' else 'validation'}: {', '.join(sorted(groups))}"]


def _with_gaps(scaler: Scaler, series: Sequence[NDArray[np.float64]]) -> Scaler:
    """Return a scaler that divides the last feature, the time since the previous row, by its mean instead."""
    gaps = np.concatenate([values[1:, -1] for values in series])  # a sequence's first row has no previous row
    mean, scale = scaler.mean.copy(), scaler.scale.copy()
    mean[-1], scale[-1] = 0.0, gaps.mean() if len(gaps) else 1.0
    return replace(scaler, mean=mean, scale=scale)


def _numeric(codecs: Codecs) -> bool:
    """Return whether the network reads numbers rather than text."""
    return isinstance(codecs.inputs, (Scaler, LogMel, RawSamples))


class _Texts(Sequence[str]):
    """The text that a report shows for each sequence; the name of a numeric sequence."""

    def __init__(self, part: Sequences, codecs: Codecs) -> None:
        self._part, self._codecs = part, codecs

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, k: Any) -> Any:
        codec = self._codecs.inputs
        return self._part.names[k] if _numeric(self._codecs) else codec.decode(self._part.inputs[k])


def _balanced(targets: NDArray[np.int64]) -> NDArray[Any]:
    """Return sample weights with mean 1 whose sum is the same for every label."""
    counts = np.bincount(targets)
    weights: NDArray[Any] = (len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1)))[targets]
    return weights
