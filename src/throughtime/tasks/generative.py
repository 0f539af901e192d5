"""Tasks whose network can generate new data, and the options of sampling."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from throughtime.codecs import Codecs
from throughtime.errors import UserError, nearest
from throughtime.spelling import option
from throughtime.tasks.base import S, Task

if TYPE_CHECKING:
    from throughtime.nn.sequence_model import SequenceModel


@dataclass(frozen=True)
class Sampling:
    """The options of drawing a sample from a network.

    Attributes:
        length: the number of tokens, steps or audio samples to generate.
        seed: the random seed; the same seed produces the same sample.
        temperature: the divisor of the scores. Below 1 is more conservative; 0 always selects the most likely value.
        top_k: the number of most likely tokens to sample from; all tokens if None.
        top_p: the total probability of the most likely tokens to sample from (nucleus sampling, Holtzman et al. 2020,
            arXiv:1904.09751); all tokens if None.

    Raises:
        UserError: if a value is out of range.
    """

    length: int
    seed: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.length < 0:
            raise UserError(f"{option('length')} must be at least 0, got {self.length}")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"{option('temperature')} must be finite and at least 0, got {self.temperature:g}")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"{option('top_k')} must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"{option('top_p')} must be greater than 0 and at most 1, got {self.top_p:g}")


class Generative(Task[S]):
    """A task whose network can generate new data.

    Attributes:
        extension: the extension of sample files; None if samples are text, which is printed.
        first_temperature: the sampling temperature of `first_samples`.
        sampling_options: the fields of `Sampling` that the task supports, besides the length and the seed.
    """

    extension: ClassVar[str | None] = None
    first_temperature: ClassVar[float] = 1.0
    sampling_options: ClassVar[Sequence[str]] = ("temperature",)

    @abstractmethod
    def sample(self, model: SequenceModel, codecs: Codecs, sampling: Sampling, prompt: str = "") -> Iterable[Any]:
        """Generate a sample and yield it in pieces.

        Args:
            model: the network.
            codecs: the codecs of its data.
            sampling: the sampling options.
            prompt: the text to continue, or the path of a file for other data; empty for none.

        Raises:
            UserError: if the prompt can't be used.
            DataError: if the prompt is a file that can't be read.
        """

    @abstractmethod
    def write_sample(self, pieces: Iterable[Any], path: Path, prompt: str, codecs: Codecs | None = None) -> None:
        """Write a sample to a file, preceded by its prompt."""

    def default_length(self, codecs: Codecs) -> int:
        """Return the default length of a sample in tokens or steps."""
        return 500

    def sampling(self, codecs: Codecs, length: int | None = None, **options: Any) -> Sampling:
        """Return sampling options, with the task's default length.

        Args:
            codecs: the codecs of the data.
            length: see `Sampling`; the task's default if None.
            **options: the other fields of `Sampling`.

        Raises:
            UserError: if an option is out of range, or the task doesn't support it.
        """
        defaults = {field.name: field.default for field in fields(Sampling)}
        for name, value in options.items():
            supported = ("length", "seed", *self.sampling_options)
            if name not in supported and (name not in defaults or value != defaults[name]):
                listed = ", ".join(map(option, supported))
                raise UserError(f"no option {option(name)} here{nearest(name, supported)}; expected {listed}")
        return Sampling(self.default_length(codecs) if length is None else length, **options)

    def first_samples(self, model: SequenceModel, codecs: Codecs) -> list[str]:
        """Return the samples shown after training, the same ones each time; empty if samples aren't text."""
        return []
