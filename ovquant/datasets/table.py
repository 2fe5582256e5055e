"""Images and labels that a CSV file lists."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovquant.datasets.images import Images, Lazily, inside, read_mask, require_files, require_once
from ovquant.errors import DataError, did_you_mean, first_line
from ovquant.job import DataSpec, Source
from ovquant.runtime import InputInfo

IMAGE, MASK, TEXT, LABEL = "image", "mask", "text", "label"
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")


def table_images(path: Path, folder: Path, *, source: Source, spec: DataSpec, inputs: Sequence[InputInfo]) -> Images:
    """Return the images of a CSV file, in its order.

    The first row names the columns: ``image`` holds files relative to `folder`; ``label`` numbers or names of classes; ``text``
    what is to be read; ``mask`` files as ``image``. Other columns are used where ``data.labels`` names them.

    Raises:
        DataError: it is not as it should be; the message says where.
    """
    table = read_table(path)
    files = {name: [inside(folder, cell, f"{path}: {name}") for cell in table[name]] for name in file_columns(table)}
    for paths in files.values():
        require_files(paths, str(path))
    images = files[IMAGE]
    require_once(images, str(path))
    wanted = source.labels or _found_labels(table, path)
    labels: Sequence[Any] | None = None
    if wanted is not None:
        names = (wanted,) if isinstance(wanted, str) else wanted
        columns = {name: _column(name, table, files, spec, path) for name in names}
        if isinstance(wanted, str):
            labels = columns[wanted]
        else:
            labels = Lazily(lambda index: {name: column[index] for name, column in columns.items()}, len(images))
    return Images((str(path.resolve()),), images, labels, spec=spec, inputs=inputs)


def read_table(path: Path) -> dict[str, list[str]]:
    """Return column name -> cells.

    Raises:
        DataError: it cannot be read, has no column ``image``, or a row has another number of cells.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV (UTF-8, commas): {first_line(error)}") from error
    header = [name.strip() for name in rows[0]] if rows else []
    if IMAGE not in header or len(set(header)) != len(header):
        raise DataError(
            f"{path}: the first row must name the columns, each once, and one of them must be {IMAGE}; found "
            f"{', '.join(header) or 'nothing'}. Others that are known: {LABEL}, {TEXT}, {MASK}"
        )
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header) or not all(cell.strip() for cell in row):
            raise DataError(f"{path}: row {number}: needs {len(header)} cells, none of them empty; found {row}")
    if len(rows) == 1:
        raise DataError(f"{path}: has no rows below the names of the columns")
    return {name: [row[place].strip() for row in rows[1:]] for place, name in enumerate(header)}


def file_columns(table: Iterable[str]) -> list[str]:
    """Return the columns that hold files."""
    return [name for name in table if name in {IMAGE, MASK}]


def _found_labels(table: Mapping[str, Sequence[str]], path: Path) -> str | None:
    found = [name for name in (LABEL, TEXT, MASK) if name in table]
    if len(found) > 1:
        raise DataError(
            f"{path}: has the columns {' and '.join(found)}: say which holds the labels in data.labels: {found[0]}, or "
            f"data.labels: [{', '.join(found)}] with labels: ... in each metric"
        )
    return found[0] if found else None


def _column(
    name: str, table: Mapping[str, Sequence[str]], files: Mapping[str, Sequence[Path]], spec: DataSpec, path: Path
) -> Sequence[Any]:
    if name not in table or name == IMAGE:
        raise DataError(f"{path}: no column {name!r} for labels{did_you_mean(name, table)}; it has {', '.join(table)}")
    if name == MASK:
        return Lazily(lambda index: read_mask(files[MASK][index], files[IMAGE][index], spec.preprocessing), len(table[name]))
    return list(table[name]) if name == TEXT else typed(table[name], spec.class_names, f"{path}: {name}")


def typed(cells: Sequence[str], class_names: Sequence[str] | None, where: str) -> list[Any]:
    """Return text as labels: integers if all are, else numbers if all are, else places in the class names, else as it is.

    Raises:
        DataError: there are class names, and a text is none of them.
    """
    if class_names is not None and not all(_WHOLE.fullmatch(cell) for cell in cells):
        for number, cell in enumerate(cells, start=2):
            if cell not in class_names:
                raise DataError(f"{where}: row {number}: {cell!r} is not in data.class_names{did_you_mean(cell, class_names)}")
        return [list(class_names).index(cell) for cell in cells]
    if all(_WHOLE.fullmatch(cell) for cell in cells):
        return [int(cell) for cell in cells]
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        return list(cells)
