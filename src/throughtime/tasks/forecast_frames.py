"""Forecasts of data frames and arrays in memory, for the estimator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

from pydantic import Field

from throughtime.codecs import Codecs
from throughtime.data.series_codec import SeriesCodec
from throughtime.errors import DataError
from throughtime.nn.sequence_model import SequenceModel
from throughtime.tasks.base import Progress
from throughtime.tasks.forecast import ForecastTask
from throughtime.tasks.options.forecast import ForecastOptions


class FrameForecastOptions(ForecastOptions):
    """Options for data frames in memory.

    Attributes:
        estimator: the parameters of the estimator.
    """

    task: Literal["frame-forecast"] = "frame-forecast"  # type: ignore[assignment]
    estimator: dict[str, Any] = Field(default_factory=dict)


class FrameForecast(ForecastTask):
    """Forecast the next rows of data frames or arrays in memory."""

    name = "frame-forecast"
    about = "forecast the next rows of data frames"
    Options = FrameForecastOptions
    options: FrameForecastOptions
    interfacing: ClassVar = ForecastTask.interfacing

    @classmethod
    def detect(cls, options: Any) -> str:
        """Match nothing: only the estimator creates this task."""
        return ""

    def require_codecs(self, codecs: Codecs) -> None:
        """Check the codecs of a loaded model.

        Raises:
            DataError: if they aren't this task's codecs.
        """
        if not isinstance(codecs.inputs, SeriesCodec):
            raise DataError("the codec of the inputs must be SeriesCodec")
        self.interface(codecs)

    def fits(self, model: SequenceModel, codecs: Codecs) -> bool:
        """Return whether a network matches this task and its codecs."""
        expected = self.interface(codecs)
        return not model.reads_tokens and model.input_size == expected.size and model.head.output == expected.output

    def prepare(self, progress: Progress | None = None, codecs: Codecs | None = None) -> NoReturn:
        """Raise DataError: the data come from the estimator, not from files.

        Raises:
            DataError: always.
        """
        raise DataError(
            "this model was trained on data in memory and can't read files. Load it with throughtime.Forecaster.load "
            "and call predict"
        )

    def read(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> NoReturn:
        """See `prepare`."""
        self.prepare()

    def read_inputs(self, paths: Sequence[str | Path], codecs: Codecs, progress: Progress | None = None) -> NoReturn:
        """See `prepare`."""
        self.prepare()
