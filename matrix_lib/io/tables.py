"""Tables as Parquet files, written whole or not at all. Needs pyarrow, which is asked for only here.

A table is a mapping from column names to equally long columns (lists or numpy arrays).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import whole_file

__all__ = ["need_pyarrow", "read_table", "write_table"]

Column = Sequence[Any] | NDArray[Any]


def need_pyarrow() -> Any:
    """The `pyarrow` package with its Parquet part. Raises ValueError with the install line where it is absent."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            f"Parquet tables need pyarrow, which is not installed ({error}): run `pip install pyarrow`, or "
            "`pip install matrix-video[eval]`"
        ) from error
    return pyarrow


def write_table(
    path: str | os.PathLike[str], columns: Mapping[str, Column], notes: Mapping[str, str] | None = None
) -> Path:
    """Writes columns to a Parquet file (zstd) and returns its path. `notes` go into the file's metadata.

    Names that repeat are stored once each (dictionary), so long tables with few names stay small. Raises ValueError
    where the columns differ in length, and where pyarrow is missing.
    """
    arrow = need_pyarrow()
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"the columns of a table are equally long; got {lengths or 'no columns'}")
    made = {name: arrow.array(_plain(column)) for name, column in columns.items()}
    table = arrow.table(made).replace_schema_metadata(dict(notes or {}))
    target = Path(path)
    with whole_file(target) as temporary:
        arrow.parquet.write_table(table, temporary, compression="zstd")
    return target


def read_table(path: str | os.PathLike[str]) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """(columns, notes) of a Parquet file. Raises ValueError for a file that is missing or is none."""
    arrow = need_pyarrow()
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"there is no table {str(source)!r}")
    try:
        table = arrow.parquet.read_table(source)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{source.name!r} cannot be read as a Parquet table: {error}") from None
    found = table.schema.metadata or {}
    return table.to_pydict(), {key.decode(): value.decode() for key, value in found.items() if key != b"ARROW:schema"}


def _plain(column: Column) -> Column:
    """A column as pyarrow takes it: one axis, nan kept as nan."""
    array = np.asarray(column) if not isinstance(column, list) else column
    if isinstance(array, np.ndarray) and array.ndim != 1:
        raise ValueError(f"a column has one axis; got the shape {array.shape}")
    return array
