"""Kubernetes quantities (`80Gi`, `500m`, `1e3`) as numbers, and bytes for people."""

import re
from decimal import Decimal

_FORM = re.compile(r"^([+-]?[0-9.]+)(?:([eE][+-]?[0-9]+)|([numkKMGTPE]i?))?$")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
GIB = 1024**3


def parse_quantity(text: str | int | float) -> float:
    """Raises ValueError for what is not a quantity."""
    match = _FORM.match(str(text))
    if match is None:
        raise ValueError(f"not a quantity: {text!r}")
    number, exponent, suffix = match.groups()
    return float(Decimal(number + (exponent or "")) * _factor(suffix))


def _factor(suffix: str | None) -> Decimal:
    if suffix is None:
        return Decimal(1)
    if suffix in _BINARY:
        return Decimal(1024) ** _BINARY[suffix]
    if suffix in _DECIMAL:
        return Decimal(10) ** _DECIMAL[suffix]
    raise ValueError(f"not a suffix of a quantity: {suffix!r}")


def gib(amount: float) -> str:
    """Bytes as `13.0 GiB`."""
    return f"{amount / GIB:.1f} GiB"
