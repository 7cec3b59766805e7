# SPDX-License-Identifier: Apache-2.0
"""Where results are written for people: with headings and colour on a terminal, plain and greppable elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TextIO

from donjon.cli.text import safe

_GAP = "  "


class Page:
    """Lines and tables on a stream; nothing in them is taken for markup or sent to the terminal as a command."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()

    def line(self, text: str = "", *, bold: bool = False) -> None:
        """One line."""
        text = safe(text)
        if bold and self._terminal:
            text = f"\x1b[1m{text}\x1b[0m"
        self._write(text)

    def raw(self, text: str) -> None:
        """Text of our own, as it is."""
        self._stream.write(text)

    def text(self, text: str) -> None:
        """Lines from outside, with their tabs."""
        for line in text.splitlines():
            self._write("\t".join(map(safe, line.split("\t"))))

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        """Names and values, one a line."""
        facts = list(facts)
        width = max((len(name) for name, _ in facts), default=0)
        for name, value in facts:
            self.line(f"{name:<{width}}{_GAP}{value}".rstrip())

    def table(
        self,
        headings: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        right: Collection[str] = (),
        indent: str = "",
    ) -> None:
        """Rows below headings; those in `right` are numbers."""
        from rich.cells import cell_len

        cells = [[safe(cell) for cell in row] for row in rows]
        widths = [max(map(cell_len, column)) for column in zip(headings, *cells, strict=True)]

        def fit(cell: str, heading: str, width: int) -> str:
            padding = " " * (width - cell_len(cell))
            return padding + cell if heading in right else cell + padding

        for number, row in enumerate([headings, *cells]):
            fitted = map(fit, row, headings, widths)
            self.line((indent + _GAP.join(fitted)).rstrip(), bold=number == 0)

    def _write(self, text: str) -> None:
        self._stream.write(f"{text}\n")
