"""The recurrent language model: which symbol comes next."""

from __future__ import annotations

from throughtime.errors import UserError
from throughtime.nn.encoders import Embedding
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Categorical


class LanguageModel(SequenceModel):
    """Embedding, recurrent layers and a softmax over the symbols (Mikolov et al. 2010).

    Args:
        vocabulary_size: the number of symbols.
        recurrent: the recurrent layers, time-major; their input is the embedding.
        dropout, tie: see `SequenceModel`.

    Raises:
        UserError: if the matrices to be tied differ in width, or the layers don't give one output for each step.
    """

    def __init__(self, vocabulary_size: int, recurrent: Recurrent, *, dropout: float = 0.0, tie: bool = False) -> None:
        if recurrent.options.returns != "steps":
            raise UserError(
                f"a language model has an output for each step: leave out returns={recurrent.options.returns!r}."
            )
        encoder = Embedding(vocabulary_size, recurrent.input_size)
        super().__init__(encoder, recurrent, Categorical(vocabulary_size), dropout=dropout, tie=tie)
