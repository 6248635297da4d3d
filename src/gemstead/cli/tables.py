"""Tables for people: drawn by rich on a terminal, plain aligned text in a pipe.

What callers sent (a model's name, an app's) may stand in a cell, so nothing that steers a terminal gets
through.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def plain(value: object) -> str:
    """The value as one line of printable text; None is `-`."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def show(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to standard output; columns of numbers stand to the right."""
    cells = [[plain(value) for value in row] for row in rows]
    right = [
        bool(rows) and all(value is None or isinstance(value, (int, float)) for value in column)
        for column in zip(*rows, strict=True)
    ] or [False] * len(headings)
    if sys.stdout.isatty():
        _draw(headings, cells, right)
        return
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for row in [headings, *cells]:
        line = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        print("  ".join(line).rstrip())


def _draw(headings: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, to_right in zip(headings, right, strict=True):
        table.add_column(heading, justify="right" if to_right else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    Console().print(table)
