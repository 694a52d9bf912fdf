"""Questions to the lineage in SQL, answered as a table, csv, json or parquet from the published copy, live or later."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from evolve.lineage import ask
from evolve.rows import Row

FORMATS = ("table", "csv", "json", "parquet")
CELL = 60  # characters of a cell that a table shows


def run_query(run_dir: Path, sql: str, fmt: str) -> str | bytes:
    """Answer one reading statement; bytes for parquet, text for the other FORMATS.

    Raises BadQuery for SQL that is wrong, writes, or reaches for other files, and NoLineage where nothing was recorded.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answer.parquet"
        with ask(run_dir, sql, file) as relation:
            if fmt == "parquet":
                relation.write_parquet(str(file))
                return file.read_bytes()
            return WRITERS[fmt](relation.columns, relation.fetchall())


def as_table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Return aligned columns, numbers to the right, and the number of rows."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    right = [any(_is_number(value) for value in column) for column in zip(*rows, strict=True)] or [False] * len(columns)
    lines = [columns, ["-" * width for width in widths], *cells]
    text = "".join(_line(line, widths, right) for line in lines)
    return f"{text}({len(rows)} {'row' if len(rows) == 1 else 'rows'})\n"


def as_csv(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Return csv with a header; NULL is an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()


def as_json(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a JSON list with an object for each row; what JSON cannot say (NaN, infinity) is null."""
    objects = json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str)
    sayable = json.loads(objects, parse_constant=lambda _: None)
    return json.dumps(sayable, indent=2, ensure_ascii=False) + "\n"


WRITERS: Mapping[str, Callable[[Sequence[str], Sequence[Row]], str]] = {
    "table": as_table,
    "csv": as_csv,
    "json": as_json,
}


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (
        cell.rjust(width) if is_right else cell.ljust(width)
        for cell, width, is_right in zip(cells, widths, right, strict=True)
    )
    return "  ".join(padded).rstrip() + "\n"


def _cell(value: object) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    text = text.replace("\r", "").replace("\n", "\\n")
    return text if len(text) <= CELL else text[: CELL - 3] + "..."


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
