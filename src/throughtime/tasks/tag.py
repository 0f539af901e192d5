"""Tag: predict one tag for each token of a sequence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from throughtime.codecs import Codecs
from throughtime.data.labels import Labels
from throughtime.data.sequences import Sequences
from throughtime.data.spans import is_tagging, span_f1
from throughtime.data.splits import require_shares, split
from throughtime.data.tagged import Tagged, read_tagged
from throughtime.data.vocabulary import build_vocabulary
from throughtime.errors import DataError
from throughtime.outputs import Categorical
from throughtime.tasks.base import Data, Figures, Interface, Prediction, Progress
from throughtime.tasks.options.tag import TagOptions
from throughtime.tasks.sequences import SequenceTask, all_raw_outputs

if TYPE_CHECKING:
    from torchmetrics import Metric

    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.sight.report.passage import Passage

_ENDINGS = (".conll", ".iob", ".bio")
_SHOWN = 8  # tokens of an example to print


@dataclass(frozen=True, eq=False)
class TaggedSequences(Sequences):
    """Sequences that keep their tokens, because unknown tokens can't be recovered from their ids.

    Attributes:
        tokens: the tokens of each sequence.
    """

    tokens: Sequence[Sequence[str]] = ()

    def take(self, indices: ArrayLike) -> TaggedSequences:
        """See `Sequences.take`."""
        found, rows = super().take(indices), np.asarray(indices, np.int64)
        return TaggedSequences(
            found.inputs, found.targets, found.weights, found.names, found.groups, tokens=[self.tokens[k] for k in rows]
        )


class Tag(SequenceTask):
    """Predict a tag for each token of a sequence."""

    name = "tag"
    about = "predict a tag for each token of a sequence"
    Options = TagOptions
    options: TagOptions
    monitor = "accuracy"
    maximize = True
    fitting = ("min_count",)

    @classmethod
    def detect(cls, options: Mapping[str, Any]) -> str:
        """See `Task.detect`; matches files whose names end in .conll, .iob or .bio."""
        paths = options.get("data") or ()
        paths = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
        return "a file of tagged tokens" if paths and all(path.suffix.lower() in _ENDINGS for path in paths) else ""

    @property
    def unit(self) -> str:
        """See `Task.unit`."""
        return "token"

    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> Data[Sequences]:
        """See `Task.prepare`."""
        options = self.options
        if options.data is None:
            raise DataError("tag needs data: pass files with one token and tag per line, or tables with one per row")
        found = self._read(options.data)
        tags = codecs.targets if codecs else Labels.of(tag for sequence in found.tags for tag in sequence)
        train = np.arange(len(found))
        held: dict[str, Any] = {}
        require_shares(options.valid_share, options.test_share)
        for name, share in (("test", options.test_share), ("valid", options.valid_share)):
            if getattr(options, name) is None and (share or name == "valid"):
                of_rest = share / (1 - options.test_share * (name == "valid"))
                sides = split(range(len(train)), None, of_rest, 0)
                held[name], train = train[sides.valid], train[sides.train]
        if codecs is None:
            texts = (_text(found.tokens[k]) for k in train)
            vocabulary = build_vocabulary("word", texts, min_count=options.min_count or 2, tokenized=True)
            codecs = Codecs(vocabulary, tags)
        whole = _encoded(found, codecs)
        parts = {name: whole.take(rows) for name, rows in held.items()}
        for name in ("valid", "test"):
            path = getattr(options, name)
            if path is not None:
                parts[name] = _encoded(self._read([path]), codecs)
        training = whole.take(train)
        sizes = {"tokens": int(training.lengths.sum()), "vocabulary": codecs.inputs.size, "tags": len(tags)}
        counts = {"train": len(training), **{name: len(part) for name, part in parts.items()}, **sizes}
        digest = "".join(part.digest for part in (training, *parts.values()))
        return Data(found.name, codecs, training, parts["valid"], parts.get("test"), digest, counts)

    def read(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Sequences:
        """See `Task.read`."""
        return _encoded(self._read(paths), codecs)

    def read_inputs(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> Sequences:
        """See `Task.read_inputs`; ignores tags."""
        return _encoded(self._read(paths, with_tags=False), codecs)

    def interface(self, codecs: Codecs) -> Interface:
        """See `Task.interface`."""
        return Interface("embedding", codecs.inputs.size, Categorical(len(codecs.targets)))

    def metrics(self, codecs: Codecs) -> Mapping[str, Metric]:
        """Return the accuracy over tokens, and for span tags (`B-PER`, `I-PER`, `O`) the span F1 score."""
        from torchmetrics.classification import MulticlassAccuracy

        from throughtime.tasks.metrics import SpanF1

        names = codecs.targets.names
        found: dict[str, Metric] = {"accuracy": MulticlassAccuracy(len(names), average="micro")}
        if is_tagging(names):
            found["span_f1"] = SpanF1(names)
        return found

    def figures(self, figures: Figures, part: Sequences) -> Figures:
        """See `Task.figures`: `loss` in nats per token, `accuracy`, `span_f1` for span tags, and the `tokens` count."""
        found = {name: value for name, value in figures.items() if name != "terms"}
        return {**found, "tokens": int(figures["terms"])}

    def figure_rows(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """See `Task.figure_rows`."""
        rows = [("accuracy", f"{figures['accuracy']:.2%}")]
        if "span_f1" in figures:
            rows.append(("span F1", f"{figures['span_f1']:.4f}"))
        if "loss" in figures:
            rows.append(("loss", f"{figures['loss']:.4f} nats per token"))
        if "tokens" in figures:
            rows.append(("tokens", f"{figures['tokens']:,.0f}"))
        return rows

    def data_in_words(self, counts: Mapping[str, int]) -> str:
        """See `Task.data_in_words`."""
        return f"sequences: {super().data_in_words(counts)}; {counts['tags']:,} tags"

    def baselines(self, data: Data[Sequences]) -> Mapping[str, Any]:
        """Find the most frequent tag overall and for each token of the vocabulary."""
        shape = data.codecs.inputs.size, len(data.codecs.targets)
        counts = np.zeros(shape, np.int64)
        for ids, tags in zip(data.train.inputs, data.train.targets, strict=True):
            np.add.at(counts, (ids, tags), 1)
        majority = int(counts.sum(0).argmax())
        by_token = np.where(counts.any(1), counts.argmax(1), majority)
        return {"majority": majority, "by_token": by_token.tolist()}

    def baseline_figures(self, fitted: Mapping[str, Any], part: Sequences, codecs: Codecs) -> dict[str, Figures]:
        """Evaluate the baselines: each token's most frequent tag, and the most frequent tag overall."""
        names, by_token = codecs.targets.names, np.asarray(fitted["by_token"])
        majority = np.full_like(by_token, fitted["majority"])
        true = np.concatenate(list(part.targets))
        found = {}
        for name, table in {
            "each token's most frequent tag": by_token,
            f"always {names[majority[0]]}": majority,
        }.items():
            guesses = [table[ids] for ids in part.inputs]
            found[name] = {"accuracy": float((np.concatenate(guesses) == true).mean())}
            if is_tagging(names):
                as_tags = [[codecs.targets.decode(ids) for ids in side] for side in (part.targets, guesses)]
                found[name]["span_f1"] = span_f1(*as_tags)
        return found

    def predict(self, model: SequenceModel, part: Sequences, codecs: Codecs) -> Prediction:
        """Predict the most likely tag of each token."""
        output = Categorical(len(codecs.targets))
        assert isinstance(part, TaggedSequences)

        def rows() -> Iterator[list[Any]]:
            for name, tokens, raw in zip(part.names, part.tokens, all_raw_outputs(model, part), strict=True):
                for token, tag in zip(tokens, codecs.targets.decode(output.predict(raw)), strict=True):
                    yield [name, token, tag]

        return Prediction(("sequence", "token", "tag"), rows())

    def example(self, model: SequenceModel, data: Data[Sequences]) -> str:
        """Return the predicted tags of the first tokens of a held-out sequence."""
        one = data.valid.take([len(data.valid) // 2])
        assert isinstance(one, TaggedSequences)
        raw = all_raw_outputs(model, one)[0]
        tags = data.codecs.targets.decode(Categorical(len(data.codecs.targets)).predict(raw))
        pairs = [f"{token}/{tag}" for token, tag in zip(one.tokens[0], tags, strict=True)]
        return " ".join([*pairs[:_SHOWN], *["..."] * (len(pairs) > _SHOWN)])

    def outcome(self, model: SequenceModel, part: Sequences, codecs: Codecs) -> dict[str, Any]:
        """Return the confusion matrix, precision and recall per tag, and the worst mistakes."""
        from throughtime.sight.report.outcome import label_results

        probabilities = Categorical(len(codecs.targets)).probabilities(np.concatenate(all_raw_outputs(model, part)))
        assert isinstance(part, TaggedSequences)
        return label_results(
            codecs.targets.names,
            np.concatenate(list(part.targets)),
            probabilities,
            [_in_context(tokens, k) for tokens in part.tokens for k in range(len(tokens))],
            "tokens",
            ", in brackets between their neighbors",
        )

    def step_name(self, codecs: Codecs) -> str:
        """Return "token"."""
        return "token"

    def tokens(self, part: Sequences, k: int, codecs: Codecs) -> Sequence[str] | None:
        """See `SequenceTask.tokens`."""
        assert isinstance(part, TaggedSequences)
        return part.tokens[k]

    def unknown(self, part: Sequences, k: int, codecs: Codecs) -> NDArray[Any] | None:
        """See `SequenceTask.unknown`."""
        unknown: NDArray[Any] = part.inputs[k] == codecs.inputs.unknown
        return unknown

    def passage(self, part: Sequences, codecs: Codecs, length: int, name: str, *, answered: bool = True) -> Passage:
        """See `Task.passage`."""
        return replace(super().passage(part, codecs, length, name, answered=answered), separator=" ")

    def read_passage(
        self, paths: Sequence[str | Path], codecs: Codecs, length: int, progress: Progress | None = None
    ) -> Passage:
        """See `Task.read_passage`."""
        found = self._read(paths)
        return self.passage(_encoded(found, codecs), codecs, length, found.name)

    def text_passage(self, text: str, codecs: Codecs, length: int) -> Passage:
        """See `Task.text_passage`; each line is one sequence of tokens separated by spaces."""
        tokens = [line.split() for line in text.splitlines() if line.strip()]
        if not tokens:
            raise DataError("the text is empty; at least 1 token is needed")
        part = _encoded(
            Tagged("", tokens, [[""] * len(line) for line in tokens], [" ".join(line) for line in tokens]), codecs
        )
        return self.passage(part, codecs, length, "your text", answered=False)

    def _read(self, paths: Sequence[str | Path], *, with_tags: bool = True) -> Tagged:
        options = self.options
        return read_tagged(
            paths,
            token_column=options.token_column,
            tag_column=options.tag_column if with_tags else None,
            sentence_column=options.sentence_column,
            encoding_errors=options.encoding_errors,
        )


def _in_context(tokens: Sequence[str], k: int) -> str:
    """Return a token in brackets between its neighbors."""
    return " ".join([*tokens[max(0, k - 3) : k], f"[{tokens[k]}]", *tokens[k + 1 : k + 4]])


def _text(tokens: Sequence[str]) -> str:
    """Join tokens into a text that the vocabulary splits into the same tokens, even if they contain spaces."""
    return " ".join(re.sub(r"\s", "_", token) for token in tokens) + " "


def _encoded(found: Tagged, codecs: Codecs) -> TaggedSequences:
    """Encode tokens and tags as ids; targets are 0 if there are no tags."""
    return TaggedSequences(
        [codecs.inputs.encode(_text(tokens)) for tokens in found.tokens],
        [codecs.targets.encode(tags) if any(tags) else np.zeros(len(tags), np.int64) for tags in found.tags],
        names=found.names,
        tokens=found.tokens,
    )
