"""Which files a source stands for: the file itself, or those of a folder that are data. The others are named once."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.rank.reporting import Report

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
PACKED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz", ".lz4")
_KNOWN = f"{', '.join(DATA_SUFFIXES)}, as they are or packed ({', '.join(PACKED_SUFFIXES)})"
_NAMED_AT_MOST = 5


@dataclass(frozen=True)
class DataFile:
    path: Path
    name: str
    """What messages call it: the source, and the path below it where the source is a folder."""

    @property
    def suffix(self) -> str:
        """Of the data, whether packed or not: `.jsonl` for rows.jsonl.gz; empty where it has none that we know."""
        return _data_suffix(self.path.name)


def find_files(source: str, local: Path, field: str, report: Report) -> list[DataFile]:
    """The data files behind one source, in a folder sorted by name.

    A file that is named by itself is data, whatever its suffix: its content decides how it is read. In a folder the
    suffix decides whether it is data.

    Args:
        report: is told once which files of a folder are not read, and why.

    Raises:
        ConfigurationError: there is none.
    """
    if not local.is_dir():
        return [DataFile(local, source)]
    found, unread = [], []
    for path in sorted(local.rglob("*")):
        if path.is_dir():
            continue
        reason = _why_not_read(path, path.relative_to(local).parts)
        place = path.relative_to(local).as_posix()
        if reason:
            unread.append(f"{place} ({reason})")
        else:
            found.append(DataFile(path, f"{source.rstrip('/')}/{place}"))
    if unread:
        report(f"warning: {len(unread)} files under {source} are not read: {_some(unread)}")
    if not found:
        there = f"; there are {_some(unread)}" if unread else ""
        raise ConfigurationError(f"there is no data file under {source}{there}. Data is {_KNOWN}", field=field)
    return found


def _why_not_read(path: Path, parts: Iterable[str]) -> str | None:
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if not _data_suffix(path.name):
        return "not data by its suffix"
    if not path.is_file():
        return "a broken link" if path.is_symlink() else "not a file"
    return "empty" if path.stat().st_size == 0 else None


def _data_suffix(name: str) -> str:
    path = PurePosixPath(name.lower())
    unpacked = PurePosixPath(path.stem) if path.suffix in PACKED_SUFFIXES else path
    return unpacked.suffix if unpacked.suffix in DATA_SUFFIXES else ""


def _some(names: list[str]) -> str:
    rest = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {rest:,} more" if rest > 0 else "")
