"""Options of the notes task."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from throughtime.tasks.options import SequenceOptions


class NotesOptions(SequenceOptions):
    """Options of the notes task.

    Attributes:
        data: piano rolls in a .mat or .npz file, MIDI files, or a folder of them. An existing split into train, valid
            and test is used.
        valid: pieces to validate on; by default the data's own part, or a tenth of the pieces.
        test: pieces to evaluate the trained network on; by default the data's own part, or a tenth of the pieces.
        step: the length of a step of MIDI files in beats.
    """

    # Typical data sets have only a few hundred pieces; without heavy dropout, a network memorizes them.
    defaults: ClassVar = {
        "hidden_size": 300,
        "dropout": 0.5,
        "recurrent_dropout": 0.5,
        "batch": 8,
        "lr": 0.01,
        "epochs": 120,
    }
    unused: ClassVar = ("encoding_errors",)

    task: Literal["notes"] = "notes"
    step: Annotated[float, Field(gt=0, le=4)] = 0.25
