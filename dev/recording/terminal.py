"""A terminal as an animated SVG: each line is drawn once and appears at its moment, the window scrolls along.

Animated by SMIL, which pictures in a README run too. A viewer without it shows the end of the recording.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME as THEME
from rich.text import Text

from dev.recording.cast import Cast, paced

ROWS = 24
LONGEST_PAUSE_SECONDS, PLAY_SECONDS, HOLD_SECONDS = 1.0, 24.0, 6.0
_FONT_SIZE, _CHARACTER, _LINE = 13.0, 7.8, 18.0
_MARGIN, _BAR = 14.0, 34.0
_FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def render(cast: Cast, *, rows: int = ROWS) -> str:
    """The recording in a window of `rows` lines, played in a loop; at most about 30 seconds long."""
    wrapped = [(line.seconds, row) for line in cast.lines for row in _rows(line.text, cast.columns)]
    moments = paced([at for at, _ in wrapped], longest_pause=LONGEST_PAUSE_SECONDS, total=PLAY_SECONDS)
    loop = (moments[-1] if moments else 0.0) + HOLD_SECONDS
    width, height = cast.columns * _CHARACTER + 2 * _MARGIN, _BAR + rows * _LINE + _MARGIN
    body = "\n".join(
        _line(row, index, moment / loop, loop)
        for index, (moment, (_, row)) in enumerate(zip(moments, wrapped, strict=True))
    )
    title = f"{cast.title} · {_duration(cast.seconds)}, shown in {loop:.0f} s"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">
<title>{escape(title)}</title>
<rect width="100%" height="100%" rx="8" fill="{THEME.background_color.hex}"/>
{"".join(_button(index, color) for index, color in enumerate(("#ff5f57", "#febc2e", "#28c840")))}
<text x="{width / 2:.0f}" y="22" text-anchor="middle" font-family="{_FONTS}" font-size="12"
 fill="#8b8f98">{escape(title)}</text>
<clipPath id="window"><rect x="0" y="{_BAR}" width="{width:.0f}" height="{rows * _LINE:.0f}"/></clipPath>
<g clip-path="url(#window)" font-family="{_FONTS}" font-size="{_FONT_SIZE}" fill="{THEME.foreground_color.hex}"
 xml:space="preserve"><g transform="translate(0 {-_scroll(len(wrapped), rows):g})">
{_scrolling(moments, loop, rows)}{body}
</g></g>
</svg>
"""


def _rows(text: str, columns: int) -> list[list[Segment]]:
    """The line in its colours, folded as a terminal folds it."""
    console = Console(width=columns, color_system="truecolor", force_terminal=True, legacy_windows=False)
    options = console.options.update(overflow="fold", no_wrap=False)
    return console.render_lines(Text.from_ansi(text), options, pad=False)


def _line(row: Sequence[Segment], index: int, start: float, loop: float) -> str:
    y = _BAR + (index + 1) * _LINE - 5
    appear = (
        f'<animate attributeName="opacity" values="0;1" keyTimes="0;{start:.4g}" calcMode="discrete" '
        f'dur="{loop:g}s" repeatCount="indefinite"/>'
    )
    return f'<text y="{y:g}" x="{_MARGIN:g}">{_spans(row)}{appear if start else ""}</text>'


def _spans(row: Sequence[Segment]) -> str:
    """Each span at its own column: the width of a character differs from font to font."""
    spans, column = [], 0
    for segment in row:
        if segment.text.strip():
            x = _MARGIN + column * _CHARACTER
            length = f' textLength="{segment.cell_length * _CHARACTER:g}" lengthAdjust="spacingAndGlyphs"'
            spans.append(f'<tspan x="{x:g}"{length}{_look(segment.style)}>{escape(segment.text)}</tspan>')
        column += segment.cell_length
    return "".join(spans)


def _look(style: Style | None) -> str:
    if style is None:
        return ""
    look = ' font-weight="bold"' if style.bold else ""
    if style.color and not style.color.is_default:
        look += f' fill="{style.color.get_truecolor(THEME).hex}"'
    return look + (' opacity=".6"' if style.dim else "")


def _scroll(shown: int, rows: int) -> float:
    return max(0, shown - rows) * _LINE


def _scrolling(moments: Sequence[float], loop: float, rows: int) -> str:
    """One step up for each line below the window."""
    if len(moments) <= rows:
        return ""
    below = list(enumerate(moments, start=1))[rows:]
    steps = {0.0: 0.0} | {moment / loop: -_scroll(shown, rows) for shown, moment in below}
    values = ";".join(f"0 {offset:g}" for offset in steps.values())
    times = ";".join(f"{time:.4g}" for time in steps)
    return (
        f'<animateTransform attributeName="transform" type="translate" values="{values}" keyTimes="{times}" '
        f'calcMode="discrete" dur="{loop:g}s" repeatCount="indefinite"/>\n'
    )


def _button(index: int, color: str) -> str:
    return f'<circle cx="{20 + index * 18}" cy="18" r="6" fill="{color}"/>'


def _duration(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
