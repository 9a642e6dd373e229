"""What is noticed about rows that are trained on all the same: each kind is said once, with a count and an example.

Remarks are data: whoever reads or renders a row returns them, the preparation adds them up, whichever process they
come from.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Remark:
    kind: str
    """A clause that stands after a count: `rows: column 'id' is not used`."""
    example: str
    """One place, and what it looks like there."""


@dataclass
class Remarks:
    """How often each kind was noticed, with the first example."""

    found: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, remarks: Iterable[Remark]) -> None:
        for remark in remarks:
            count, example = self.found.get(remark.kind, (0, remark.example))
            self.found[remark.kind] = (count + 1, example)

    def merge(self, later: "Remarks") -> None:
        """Adds those of rows that come after these."""
        for kind, (count, example) in later.found.items():
            before, first = self.found.get(kind, (0, example))
            self.found[kind] = (before + count, first)

    def report(self, report: Callable[[str], None]) -> None:
        for kind, (count, example) in self.found.items():
            report(f"warning: {count:,} × {kind}; for example {example}")

    def as_dict(self) -> dict[str, dict[str, int | str]]:
        """JSON, for the statistics."""
        return {kind: {"count": count, "example": example} for kind, (count, example) in self.found.items()}
