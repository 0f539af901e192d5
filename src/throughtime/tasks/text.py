"""Text: predict the next character, word or byte pair."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughtime.codecs import Codecs
from throughtime.data.corpus import Corpus, EncodedText, encode_text, prepare_text
from throughtime.data.streams import Streams
from throughtime.errors import DataError
from throughtime.levels import UNITS
from throughtime.outputs import Categorical
from throughtime.spelling import counted, option
from throughtime.tasks.base import Data, Figures, Interface, Prediction, Progress
from throughtime.tasks.generative import Sampling
from throughtime.tasks.options.text import TextOptions
from throughtime.tasks.streams import StreamTask

if TYPE_CHECKING:
    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.sight.report.passage import Passage

_log = logging.getLogger("throughtime")

_PROMPT = "The "  # of the suggested command, if the vocabulary has it
_SAMPLES = 2  # the number of samples to show after training
_NAMED = 10  # the maximum number of unknown tokens of a prompt to name
_LENGTHS = {"char": 300, "word": 60, "bpe": 90}  # in tokens; about the same amount of text


class Text(StreamTask[EncodedText]):
    """Predict the next character, word or byte pair of a text."""

    name = row = "text"
    about = "predict the next character, word or byte pair"
    Options = TextOptions
    options: TextOptions
    fitting = ("vocab_size", "min_count")
    default_data = "pydoc"
    interfacing = ("level",)
    reads_standard_input = True
    baseline_rows = 1
    sampling_options = ("temperature", "top_k", "top_p")
    first_temperature = 0.8

    @property
    def unit(self) -> str:
        """See `Task.unit`."""
        return UNITS[self.options.level]

    def next_commands(self, codecs: Codecs) -> Sequence[str]:
        """See `Task.next_commands`; a text from standard input can't be read again."""
        own_text = " --text 'To be or not'" if "-" in (self.options.data or ()) else ""
        vocabulary = codecs.inputs
        prompt = "" if vocabulary.unknown in vocabulary.encode(_PROMPT) else f" --prompt {_PROMPT!r}"
        return f"sample {{}}{prompt} --temperature {self.first_temperature}", "inspect {}" + own_text

    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> Data[EncodedText]:
        """See `Task.prepare`."""
        options = self.options
        corpus = prepare_text(
            options.data,
            level=options.level,
            vocab_size=options.vocab_size,
            min_count=options.min_count,
            valid=options.valid,
            test=options.test,
            encoding_errors=options.encoding_errors,
            vocabulary=codecs.inputs if codecs else None,
            progress=progress,
        )
        for what, name, part in (("validation", "valid", corpus.valid), ("test", "test", corpus.test)):
            if part is not None and part.token_count < 2:
                raise DataError(
                    f"the {what} text has {part.token_count} token; at least 2 are needed: use more text, or pass "
                    f"another text with {option(name)}"
                )
        notes = []
        if codecs and (unknown := corpus.train.unknown):
            share = f"{unknown:,} of {counted(corpus.train.token_count, self.unit)}"
            most = f"; train without {option('init_from')}" if 2 * unknown > corpus.train.token_count else ""
            notes.append(f"{share} for training are not in the vocabulary, and are read as <unk>{most}")
        return _data(corpus, notes)

    def read(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> EncodedText:
        """See `Task.read`."""
        errors = self.options.encoding_errors
        part = encode_text(paths, codecs.inputs, encoding_errors=errors, progress=progress)
        if part.token_count < 2:
            raise DataError(f"{part.name} has {part.token_count} token; at least 2 are needed")
        return part

    def interface(self, codecs: Codecs) -> Interface:
        """See `Task.interface`."""
        return Interface("embedding", codecs.inputs.size, Categorical(codecs.inputs.size), causal=True)

    def figures(self, figures: Figures, part: EncodedText) -> Figures:
        """See `Task.figures`.

        Returns:
            `loss` in nats per token, `perplexity`, `bits_per_token`, the number of predicted tokens as `tokens`, the
            number of out-of-vocabulary tokens as `unknown`, and `bits_per_character` and `bits_per_byte`, which are
            comparable across levels.
        """
        loss = figures["loss"]
        return {
            "loss": loss,
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "bits_per_token": loss / math.log(2),
            "tokens": int(figures["terms"]),
            "unknown": part.unknown,
            "bits_per_character": part.bits_per_character(loss),
            "bits_per_byte": part.bits_per_byte(loss),
        }

    def baselines(self, data: Data[EncodedText]) -> Mapping[str, Any]:
        """Count how often each token occurs in the training text."""
        import numpy as np

        size = data.codecs.inputs.size
        counts = np.zeros(size, np.int64)
        for start in range(0, data.train.token_count, 1 << 22):
            counts += np.bincount(data.train.ids[start : start + (1 << 22)], minlength=size)
        return {"counts": counts.tolist()}

    def baseline_figures(self, fitted: Mapping[str, Any], part: EncodedText, codecs: Codecs) -> dict[str, Figures]:
        """Evaluate the baseline: token frequencies with add-one (Laplace) smoothing."""
        import numpy as np

        counts = np.asarray(fitted["counts"], float) + 1
        nats = -np.log(counts / counts.sum())
        found = np.bincount(part.ids[1:], minlength=len(nats))
        loss = float((found * nats).sum() / found.sum())
        return {"tokens by frequency": self.figures({"loss": loss, "terms": int(found.sum())}, part)}

    def figure_rows(self, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
        """See `Task.figure_rows`."""
        unit = self.unit
        rows = [
            ("loss", f"{_number(figures['loss'])} nats per {unit}"),
            ("bits per byte", _number(figures["bits_per_byte"])),
            (f"{unit}s", f"{figures['tokens']:,.0f} predicted"),
        ]
        if figures["unknown"]:
            unknown = counted(figures["unknown"], unit)
            rows.append(("unknown", f"{unknown} not seen in training, read as <unk>"))
        return rows

    def data_in_words(self, counts: Mapping[str, int]) -> str:
        """See `Task.data_in_words`."""
        size = counts["vocabulary"]
        of_characters = f"{size - 1:,} different characters and <unk>"
        vocabulary = of_characters if self.options.level == "char" else f"vocabulary of {size:,}"
        return f"{self.unit}s: {super().data_in_words(counts)}; {vocabulary}"

    def predict(self, model: SequenceModel, part: EncodedText, codecs: Codecs) -> Prediction:
        """Predict a text: each token with its cost in nats given the previous tokens, and the most likely token."""
        return Prediction(("token", "nats", "prediction"), _surprises(model, self.reading(part), codecs.inputs))

    def sample(self, model: SequenceModel, codecs: Codecs, sampling: Sampling, prompt: str = "") -> Iterator[str]:
        """Yield the continuation of a text, without `<unk>`.

        If the prompt is empty, the network first writes some text of its own, and the sample is the continuation from
        the next line end: a state of zeros, which begins the training text only, would make the first words noise.
        """
        import torch

        vocabulary = codecs.inputs
        _report_unknown(vocabulary, prompt)
        generator = torch.Generator().manual_seed(sampling.seed % 2**63)

        def pieces() -> Iterator[str]:
            decoder = vocabulary.decoder()
            separator = vocabulary.separator if prompt and not prompt[-1].isspace() else ""
            drawn = _drawn(model, _begin(vocabulary, prompt, generator), vocabulary.unknown, sampling, generator)
            if not prompt:
                _skip_first_lines(drawn, vocabulary)
            for token in islice(drawn, sampling.length):
                if text := decoder([token]):
                    if separator and not text[0].isspace():
                        text = separator + text
                    separator = ""
                    yield text
            if text := decoder([], final=True):
                yield text

        return pieces()

    def write_sample(self, pieces: Iterable[str], path: Path, prompt: str, codecs: Codecs | None = None) -> None:
        """Write the prompt and its continuation as UTF-8."""
        with path.open("w", encoding="utf-8") as file:
            file.write(prompt)
            for piece in pieces:
                file.write(piece)

    def passage(self, part: EncodedText, codecs: Codecs, length: int, name: str) -> Passage:
        """See `Task.passage`; shows the start of the text."""
        from throughtime.sight.report.passage import passage_of

        return replace(passage_of(name, part.ids, codecs.inputs, length, self.unit), part=part)

    def read_passage(
        self, paths: Sequence[str | Path], codecs: Codecs, length: int, progress: Progress | None = None
    ) -> Passage:
        """See `Task.read_passage`; shows the start of the text."""
        from throughtime.data.text import read_text
        from throughtime.sight.report.passage import passage, short

        given = read_text(list(paths), self.options.encoding_errors, progress)
        return passage(short(given.name), given.pieces(), codecs.inputs, length, self.unit)

    def text_passage(self, text: str, codecs: Codecs, length: int) -> Passage:
        """See `Task.text_passage`."""
        from throughtime.sight.report.passage import passage

        return passage("your text", [text], codecs.inputs, length, self.unit)

    def first_samples(self, model: SequenceModel, codecs: Codecs) -> list[str]:
        """Return the samples shown after training, the same ones each time."""
        return [self._drawn(model, codecs, seed) for seed in range(_SAMPLES)]

    def example(self, model: SequenceModel, data: Data[EncodedText]) -> str:
        """Return the first of the samples shown after training."""
        return self._drawn(model, data.codecs, 0)

    def _drawn(self, model: SequenceModel, codecs: Codecs, seed: int) -> str:
        sampling = Sampling(_LENGTHS[self.options.level], seed, self.first_temperature)
        return "".join(self.sample(model, codecs, sampling))


def _data(corpus: Corpus, notes: Sequence[str]) -> Data[EncodedText]:
    parts = {"train": corpus.train, "valid": corpus.valid, "test": corpus.test}
    counts = {name: part.token_count for name, part in parts.items() if part is not None}
    return Data(
        corpus.name,
        Codecs(corpus.vocabulary),
        corpus.train,
        corpus.valid,
        corpus.test,
        corpus.digest,
        {**counts, "vocabulary": corpus.vocabulary.size},
        notes,
    )


def _number(value: float, digits: int = 4) -> str:
    return f"{value:,.{digits}f}" if value < 1e9 else f"{value:.3g}"


def _surprises(model: SequenceModel, streams: Streams, vocabulary: Any) -> Iterator[tuple[str, float, str]]:
    import torch

    state = None
    for k in range(len(streams)):
        tokens, targets = (torch.from_numpy(array) for array in streams[k])
        with torch.no_grad():
            scores, state = model(tokens, state)
        chances = scores[:, 0].double().log_softmax(-1)
        nats, best = -chances.gather(1, targets)[:, 0], chances.argmax(1)
        for target, cost, predicted in zip(targets[:, 0].tolist(), nats.tolist(), best.tolist(), strict=True):
            yield vocabulary.tokens[target], cost, vocabulary.tokens[predicted]


def _report_unknown(vocabulary: Any, prompt: str) -> None:
    """Warn about tokens of a prompt that are not in the vocabulary."""
    if vocabulary.unknown is None:
        return
    if vocabulary.level == "char":
        unknown = [token for token in dict.fromkeys(prompt) if int(vocabulary.encode(token)[0]) == vocabulary.unknown]
    else:
        unknown = [w for w in dict.fromkeys(prompt.split()) if (vocabulary.encode(w) == vocabulary.unknown).any()]
    if unknown:
        named = ", ".join(map(repr, unknown[:_NAMED])) + (", ..." if len(unknown) > _NAMED else "")
        _log.warning(
            "the prompt has %s not seen in training: %s; read as <unk>",
            f"{len(unknown)} {UNITS[vocabulary.level]}{'s' * (len(unknown) > 1)}", named,
        )  # fmt: skip


def _begin(vocabulary: Any, prompt: str, generator: Any) -> Any:
    """Return the token ids to start from: the prompt; if empty, a line end; if that is unknown, a random token."""
    import torch

    for text in (prompt, "\n"):
        ids = vocabulary.encode(text)
        if ids.size and (text == prompt or vocabulary.unknown not in ids):
            return torch.from_numpy(ids)
    first = 0 if vocabulary.unknown is None else 1
    return torch.randint(first, max(vocabulary.size, first + 1), (1,), generator=generator)


def _drawn(model: SequenceModel, tokens: Any, unknown: int | None, sampling: Sampling, generator: Any) -> Iterator[int]:
    """Yield the token ids of a continuation without end."""
    import torch

    state = None
    while True:
        with torch.no_grad():
            scores, state = model(tokens[:, None], state)
        token = _draw(scores[-1, 0], unknown, sampling, generator)
        tokens = torch.tensor([token])
        yield token


def _skip_first_lines(drawn: Iterator[int], vocabulary: Any) -> None:
    """Skip some tokens, and then the rest of the line, or of the word if the line is very long."""
    decoder, longest = vocabulary.decoder(), _LENGTHS[vocabulary.level]
    for count, token in enumerate(islice(drawn, 2 * longest), 1):
        text = decoder([token])
        if ("\n" in text and 3 * count >= longest) or (text[-1:].isspace() and count >= longest):
            break


def _draw(scores: Any, unknown: int | None, sampling: Sampling, generator: Any) -> int:
    import torch

    scores = scores.double()
    if unknown is not None:
        scores[unknown] = -math.inf
    if sampling.temperature == 0:
        return int(scores.argmax())
    scores = (scores - scores.max()) / sampling.temperature  # the maximum is 0, so no temperature overflows
    scores, order = scores.sort(descending=True, stable=True)
    probabilities = scores.softmax(0)
    if sampling.top_k is not None:
        probabilities[sampling.top_k :] = 0
    if sampling.top_p is not None:
        before = probabilities.cumsum(0) - probabilities
        probabilities[before >= sampling.top_p * probabilities.sum()] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])
