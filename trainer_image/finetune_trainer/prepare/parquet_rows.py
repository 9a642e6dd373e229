"""Rows of Parquet, a few at a time: values as Python has them (lists, dicts, None, Decimal, datetime, bytes)."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_trainer.errors import DataError
from finetune_trainer.prepare.content import Moved
from finetune_trainer.prepare.data_files import DataFile

_ROWS_AT_ONCE = 512


def read_parquet(file: DataFile, moved: Moved) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of a row is its position in the file."""
    number = 0
    try:
        with pq.ParquetFile(file.path, memory_map=True) as parquet:
            _check_columns(parquet.schema_arrow, file)
            for batch in parquet.iter_batches(batch_size=_ROWS_AT_ONCE):
                moved(file.path.stat().st_size * batch.num_rows // parquet.metadata.num_rows)
                for values in _values(batch, file, number):
                    number += 1
                    yield number, values
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"not a readable Parquet file ({_first_line(error)}); write it again",
            file=file.name,
            row=number + 1 if number else None,
        ) from None


def _check_columns(schema: Any, file: DataFile) -> None:
    for name, count in Counter(schema.names).items():
        if count > 1:
            message = f"{count} columns have this name; rename or remove all but one"
            raise DataError(message, file=file.name, field=name)


def _values(batch: Any, file: DataFile, before: int) -> list[dict[str, Any]]:
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):  # UnicodeDecodeError is a ValueError
        return [_row(batch, index, file, before + index + 1) for index in range(batch.num_rows)]


def _row(batch: Any, index: int, file: DataFile, number: int) -> dict[str, Any]:
    """The row, or the field in it that Python cannot have."""
    values = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = column[index].as_py()
        except UnicodeDecodeError as error:
            message = f"byte {error.start + 1} is not UTF-8; write the column as UTF-8"
            raise DataError(message, file=file.name, row=number, field=name) from None
        except (ValueError, OverflowError, pa.ArrowException) as error:
            message = f"the value cannot be read ({_first_line(error)}); convert or remove the column"
            raise DataError(message, file=file.name, row=number, field=name) from None
    return values


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
