"""Read and write piano rolls as MIDI files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from throughtime import files
from throughtime.errors import DataError
from throughtime.packages import require
from throughtime.paths import display_path, missing

KEYS = 88
LOWEST = 21
"""The MIDI number of a piano's lowest key, A0."""

_PERCUSSION = 9  # the channel whose note numbers are drums, not pitches
_MAX_STEPS = 1_000_000  # a damaged file may contain years of silence
_TICKS = 120  # per written step, which is a quarter of a beat
_VELOCITY = 80


def read_midi(path: str | Path, *, step: float = 0.25) -> tuple[NDArray[np.uint8], int]:
    """Read a MIDI file as a piano roll.

    A note sounds from the step nearest its start until the step nearest its end (exclusive), and for at least one step.
    Percussion (channel 10) is ignored.

    Args:
        path: the path of the file.
        step: the length of a step in beats.

    Returns:
        The roll `[T, 88]` of 0s and 1s up to the end of the last note, and the number of notes dropped because they are
        outside a piano's range.

    Raises:
        DataError: if the file is missing, damaged or has no notes, or step is not positive.
        UserError: if mido is not installed.
    """
    require("mido", "notes", "reading MIDI files")
    import mido

    path = Path(path)
    name = display_path(path)
    if not (np.isfinite(step) and step > 0):
        raise DataError(f"step must be a positive number of beats, got {step}")
    try:
        file = mido.MidiFile(file=io.BytesIO(path.read_bytes()))
        messages = list(file.merged_track)
    except FileNotFoundError:
        raise DataError(missing(path)) from None
    except Exception as error:  # mido raises many kinds of errors for damaged files
        reason = str(error) or "unexpected end of file"
        raise DataError(f"{name} is not a readable MIDI file: {reason}") from None
    if file.ticks_per_beat <= 0:
        raise DataError(f"{name} counts time in video frames (SMPTE) rather than beats, which is unsupported")
    sounding = _notes(messages)
    outside = [note for note in sounding if not LOWEST <= note[0] < LOWEST + KEYS]
    ticks = file.ticks_per_beat * step
    inside = []
    for key, start, end in sounding:
        if LOWEST <= key < LOWEST + KEYS:
            first, last = (int(tick / ticks + 0.5) for tick in (start, end))
            inside.append((key - LOWEST, first, max(last, first + 1)))
    if not inside:
        raise DataError(f"{name} has no notes in a piano's range; remove the file")
    steps = max(end for _, _, end in inside)
    if steps > _MAX_STEPS:
        raise DataError(
            f"{name} has {steps:,} steps of {step:g} beats, above the limit of {_MAX_STEPS:,}; use a longer step"
        )
    roll = np.zeros((steps, KEYS), np.uint8)
    for column, start, end in inside:
        roll[start:end, column] = 1
    return roll, len(outside)


def write_midi(roll: ArrayLike, path: str | Path, *, step_seconds: float) -> None:
    """Write a piano roll as a MIDI file. A key that sounds in consecutive steps becomes one held note.

    A step is a quarter of a beat, so `read_midi` restores the roll with its default step.

    Args:
        roll: the roll `[T, 88]`; a key sounds if it is nonzero.
        path: the path of the file, which is replaced if it exists.
        step_seconds: the length of a step in seconds, at most 4.

    Raises:
        DataError: if the roll's shape or step_seconds is invalid.
        UserError: if mido is not installed, or the file can't be written.
    """
    require("mido", "notes", "writing MIDI files")
    import mido

    on = np.asarray(roll) != 0
    if on.ndim != 2 or on.shape[1] != KEYS:
        raise DataError(f"a piano roll must have shape [steps, {KEYS}], got {list(on.shape)}")
    if not 0.001 <= step_seconds <= 4:
        raise DataError(f"step_seconds must be from 0.001 to 4, got {step_seconds}")
    silence = np.zeros((1, KEYS), bool)
    changes = np.diff(np.concatenate([silence, on, silence]).astype(np.int8), axis=0)
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=round(step_seconds * 4e6))])
    written = 0
    for step, change in enumerate(changes):
        for sign, kind in ((-1, "note_off"), (1, "note_on")):
            for column in np.flatnonzero(change == sign).tolist():
                velocity = _VELOCITY if sign == 1 else 0
                wait = (step - written) * _TICKS
                track.append(mido.Message(kind, note=column + LOWEST, velocity=velocity, time=wait))
                written = step
    track.append(mido.MetaMessage("end_of_track", time=(len(on) - written) * _TICKS))
    content = io.BytesIO()
    mido.MidiFile(type=0, ticks_per_beat=4 * _TICKS, tracks=[track]).save(file=content)
    files.write(path, content.getvalue())


def _notes(messages: list[Any]) -> list[tuple[int, int, int]]:
    """Return each note's key, first tick and last tick; an unfinished note lasts until the end of the track."""
    found: list[tuple[int, int, int]] = []
    open_notes: dict[tuple[int, int], int] = {}
    now = 0
    for message in messages:
        now += message.time
        if message.type not in ("note_on", "note_off") or message.channel == _PERCUSSION:
            continue
        key = message.channel, message.note
        start = open_notes.pop(key, None)  # a repeated start ends the previous note
        if start is not None:
            found.append((message.note, start, now))
        if message.type == "note_on" and message.velocity:
            open_notes[key] = now
    return found + [(note, start, now) for (_, note), start in open_notes.items()]
