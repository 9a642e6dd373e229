"""The loss of a training as a picture: a line over the steps, and the held-out rows before and after it."""

import math
from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 36, 44
_LINE, _DOT, _INK, _GRID = "#3b6ea8", "#c2571a", "#333333", "#e3e3e3"

Point = tuple[float, float]
"""Step and loss."""


def render(points: Sequence[Point], *, title: str, held_out: Sequence[Point] = ()) -> str:
    """An SVG. The same points give the same bytes; losses that are not finite are left out.

    Args:
        points: the training loss, in the order of the steps.
        held_out: of the held-out rows, where it was measured.

    Raises:
        ValueError: there is no finite loss.
    """
    line, dots = _finite(points), _finite(held_out)
    if not line:
        raise ValueError("there is no finite loss to draw")
    xs, ys = _Axis.of([x for x, _ in line + dots]), _Axis.of([y for _, y in line + dots])

    def at(point: Point) -> tuple[float, float]:
        return (
            _LEFT + xs.share(point[0]) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - ys.share(point[1]) * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_WIDTH / 2, 22, title, anchor="middle", size=14),
        *(_gridline(at((xs.low, tick))[1], tick) for tick in ys.ticks),
        *(_text(at((tick, ys.low))[0], _HEIGHT - _BOTTOM + 18, f"{tick:g}", anchor="middle") for tick in xs.ticks),
        _text(_WIDTH / 2, _HEIGHT - 8, "step", anchor="middle"),
        f'<g transform="translate(16 {_HEIGHT / 2:g}) rotate(-90)">'
        + _text(0, 0, "training loss (nats per token)", anchor="middle")
        + "</g>",
        _curve([at(point) for point in line]),
        *(_dot(*at(point)) for point in dots),
    ]
    if dots:
        parts += [_dot(_WIDTH - 112, 18), _text(_WIDTH - 102, 22, "held-out rows", anchor="start")]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
    return head + f'font-size="12" role="img">\n<title>{escape(title)}</title>\n' + "\n".join(parts) + "\n</svg>\n"


class _Axis:
    """Round ticks, and the range that they span together with the values."""

    def __init__(self, low: float, high: float, ticks: list[float]) -> None:
        self.low, self.high, self.ticks = low, high, ticks

    @classmethod
    def of(cls, values: Sequence[float]) -> "_Axis":
        low, high = min(values), max(values)
        spread = high - low or abs(high) or 1.0
        step = _round_step(spread / 5)
        ticks = [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
        margin = 0.04 * spread
        return cls(low - margin, high + margin, [float(f"{tick:.12g}") for tick in ticks] or [low])

    def share(self, value: float) -> float:
        """Where it lies between the ends, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, … that is not less."""
    power = 10.0 ** math.floor(math.log10(least))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9)))


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(float(step), float(loss)) for step, loss in points if math.isfinite(loss)]


def _gridline(y: float, tick: float) -> str:
    line = f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>'
    return line + _text(_LEFT - 8, y + 4, f"{tick:g}", anchor="end")


def _curve(places: Sequence[tuple[float, float]]) -> str:
    if len(places) == 1:
        return f'<circle cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3" fill="{_LINE}"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{path}" fill="none" stroke="{_LINE}" stroke-width="1.8" stroke-linejoin="round"/>'


def _dot(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_DOT}"/>'


def _text(x: float, y: float, text: str, *, anchor: str, size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{_INK}">{escape(text)}</text>'
    )
