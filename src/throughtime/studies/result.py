"""The result of a study: a dictionary that prints as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from throughtime.paths import display_path
from throughtime.tables import html_table, text_table


class StudyResult(dict[str, Any]):
    """The result of a study: plain data that displays as a table.

    Args:
        content: the data; `folder` is the study's folder.
        head: the table's column names.
        rows: the table's rows.
        sentences: the findings.
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        head: Sequence[str],
        rows: Sequence[Sequence[str]],
        sentences: Sequence[str] = (),
    ) -> None:
        super().__init__(content)
        self.head, self.rows, self.sentences = head, rows, sentences

    def __repr__(self) -> str:
        return "\n".join([*text_table([self.head, *self.rows]), *self.sentences, self._saved])

    def _repr_html_(self) -> str:
        return html_table(self.head, self.rows, " ".join([*self.sentences, self._saved]))

    @property
    def _saved(self) -> str:
        return f"Saved to {display_path(self['folder'])}."
