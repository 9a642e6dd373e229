"""Figures as people read them."""

import math


def duration(seconds: float) -> str:
    """The two largest units that matter: `0.4 s`, `45 s`, `3 min 5 s`, `1 h 12 min`, `2 d 3 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, below, size_below in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // size_below
            return f"{whole // size} {unit} {rest} {below}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def size(count: int) -> str:
    """Bytes: `812 MiB`, `3.45 GiB`."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 2**power:
            return f"{_three_digits(count / 2**power)} {unit}"
    return f"{count} bytes"


def amount(count: int) -> str:
    """Parameters or tokens: `812`, `31,520`, `4.88 million`, `1.24 billion`."""
    for name, power in (("trillion", 12), ("billion", 9), ("million", 6)):
        if count >= 10**power:
            return f"{_three_digits(count / 10**power)} {name}"
    return f"{count:,}"


def number(value: float) -> str:
    """A setting as it would be written: `0.0002`, `1e-05`, `3`."""
    return f"{value:g}"


def loss(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else str(value)


def _three_digits(value: float) -> str:
    return f"{value:.{max(0, 2 - int(math.log10(value)))}f}"
