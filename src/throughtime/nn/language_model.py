"""A recurrent language model, which predicts the next token."""

from __future__ import annotations

from throughtime.errors import UserError
from throughtime.nn.encoders import Embedding
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Categorical


class LanguageModel(SequenceModel):
    """An embedding, recurrent layers and a softmax over the vocabulary (Mikolov et al. 2010).

    Args:
        vocabulary_size: the number of tokens in the vocabulary.
        recurrent: the recurrent layers, time-major; their input is the embedding vectors.
        dropout, tie: see `SequenceModel`.

    Raises:
        UserError: if the matrices to tie differ in width, or the layers don't return an output for each step.
    """

    def __init__(self, vocabulary_size: int, recurrent: Recurrent, *, dropout: float = 0.0, tie: bool = False) -> None:
        if recurrent.options.returns != "steps":
            raise UserError(
                f"a language model needs an output for each step: remove returns={recurrent.options.returns!r}"
            )
        encoder = Embedding(vocabulary_size, recurrent.input_size)
        super().__init__(encoder, recurrent, Categorical(vocabulary_size), dropout=dropout, tie=tie)
