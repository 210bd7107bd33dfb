"""Line plots as PNG, by nothing but the standard library: some panels below each other, a legend, and that is all."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, floor, log10
from pathlib import Path

Colour = tuple[int, int, int]
Point = tuple[float, float]

WHITE, BLACK, GREY, PALE = (255, 255, 255), (20, 20, 20), (110, 110, 110), (228, 228, 228)
COLOURS: tuple[Colour, ...] = ((31, 90, 180), (214, 70, 40), (40, 140, 70), (140, 90, 170))
WIDTH, HEIGHT = 1200, 300  # of a panel, pixels
LEFT, RIGHT, TOP, BOTTOM = 90, 30, 44, 56
SCALE = 2  # of letters that are 5 by 7
ADVANCE = 6 * SCALE

# each letter is five columns, the lowest bit on top
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ.,:/-%()+"
_COLUMNS = bytes.fromhex(
    "3e5149453e 00427f4000 4261514946 2141454b31 1814127f10 2745454539 3c4a494930 0171090503 3649494936 "
    "064949291e 7e1111117e 7f49494936 3e41414122 7f4141221c 7f49494941 7f09090901 3e4149497a 7f0808087f "
    "00417f4100 2040413f01 7f08142241 7f40404040 7f020c027f 7f0408107f 3e4141413e 7f09090906 3e4151215e "
    "7f09192946 4649494931 01017f0101 3f4040403f 1f2040201f 3f4038403f 6314081463 0708700807 6151494543 "
    "0060600000 0050300000 0036360000 2010080402 0808080808 2313086462 001c224100 0041221c00 08083e0808 "
)
_FONT = {letter: _COLUMNS[5 * n : 5 * n + 5] for n, letter in enumerate(_LETTERS)}


@dataclass(frozen=True)
class Line:
    """One curve, and its name in the legend."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Panel:
    """Curves over one horizontal axis from `first` to `last`; `levels` are drawn across, `marks` upright, each with its
    name."""

    title: str
    across: str
    lines: Sequence[Line]
    first: float
    last: float
    levels: Sequence[tuple[float, str]] = field(default_factory=tuple)
    marks: Sequence[tuple[float, str]] = field(default_factory=tuple)


def write_png(path: Path, panels: Sequence[Panel]) -> None:
    """Draws the panels below each other."""
    canvas = Canvas(WIDTH, HEIGHT * len(panels))
    for place, panel in enumerate(panels):
        _Drawing(canvas, panel, place * HEIGHT).draw()
    path.write_bytes(canvas.png())


class Canvas:
    """Pixels; the origin is on top, on the left. What is drawn beyond the edges is lost."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._rows = [bytearray(bytes(WHITE) * width) for _ in range(height)]

    def dot(self, x: int, y: int, colour: Colour) -> None:
        if 0 <= x < self._width and 0 <= y < self._height:
            self._rows[y][3 * x : 3 * x + 3] = bytes(colour)

    def line(self, start: tuple[int, int], end: tuple[int, int], colour: Colour, thick: int = 1) -> None:
        steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for step in range(steps + 1):
            x, y = (round(a + (b - a) * step / steps) for a, b in zip(start, end, strict=True))
            for more in range(thick * thick):
                self.dot(x + more % thick, y + more // thick, colour)

    def text(self, x: int, y: int, text: str, colour: Colour = BLACK) -> None:
        """Letters that the font lacks are left blank; small ones become capitals."""
        for place, letter in enumerate(text.upper()):
            for column, bits in enumerate(_FONT.get(letter, b"")):
                for row in (row for row in range(7) if bits >> row & 1):
                    self._block(x + place * ADVANCE + column * SCALE, y + row * SCALE, colour)

    def _block(self, x: int, y: int, colour: Colour) -> None:
        for more in range(SCALE * SCALE):
            self.dot(x + more % SCALE, y + more // SCALE, colour)

    def png(self) -> bytes:
        """The picture: 8 bits for each of red, green and blue."""
        header = struct.pack(">IIBBBBB", self._width, self._height, 8, 2, 0, 0, 0)
        pixels = zlib.compress(b"".join(b"\0" + row for row in self._rows), 9)
        return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class _Drawing:
    """One panel on a canvas, `top` pixels from its upper edge."""

    def __init__(self, canvas: Canvas, panel: Panel, top: int) -> None:
        self._canvas, self._panel = canvas, panel
        self._top, self._bottom = top + TOP, top + HEIGHT - BOTTOM
        self._lines = [Line(each.name, list(_within(each.points, panel))) for each in panel.lines]
        shown = [y for each in self._lines for _, y in each.points] + [level for level, _ in panel.levels]
        self._ceiling = 1.1 * max(shown, default=1.0) or 1.0

    def draw(self) -> None:
        self._axes()
        for level, name in self._panel.levels:
            self._canvas.line(self._at(self._panel.first, level), self._at(self._panel.last, level), GREY)
            self._canvas.text(WIDTH - RIGHT - len(name) * ADVANCE, self._at(0, level)[1] - 18, name, GREY)
        for moment, name in self._panel.marks:
            x = self._at(moment, 0)[0]
            self._canvas.line((x, self._top), (x, self._bottom), GREY)
            self._canvas.text(x + 6, self._top + 4, name, GREY)
        for place, line in enumerate(self._lines):
            self._curve(line, COLOURS[place % len(COLOURS)])
        self._legend()

    def _axes(self) -> None:
        panel = self._panel
        for y in _ticks(0, self._ceiling):
            self._canvas.line(self._at(panel.first, y), self._at(panel.last, y), PALE)
            label = f"{y:g}"
            self._canvas.text(LEFT - 8 - len(label) * ADVANCE, self._at(0, y)[1] - 7, label)
        for x in _ticks(panel.first, panel.last):
            spot, label = self._at(x, 0), f"{x:g}"
            self._canvas.line(spot, (spot[0], spot[1] + 5), BLACK)
            self._canvas.text(spot[0] - len(label) * ADVANCE // 2, spot[1] + 10, label)
        self._canvas.line(self._at(panel.first, 0), self._at(panel.last, 0), BLACK)
        self._canvas.line((LEFT, self._top), (LEFT, self._bottom), BLACK)
        self._canvas.text((LEFT + WIDTH - RIGHT - len(panel.across) * ADVANCE) // 2, self._bottom + 30, panel.across)

    def _legend(self) -> None:
        self._canvas.text(LEFT, self._top - 28, self._panel.title)
        right = WIDTH - RIGHT
        for place, line in reversed(list(enumerate(self._lines))):
            colour = COLOURS[place % len(COLOURS)]
            right -= len(line.name) * ADVANCE
            self._canvas.text(right, self._top - 28, line.name, colour)
            self._canvas.line((right - 34, self._top - 22), (right - 10, self._top - 22), colour, 3)
            right -= 60

    def _curve(self, line: Line, colour: Colour) -> None:
        spots = [self._at(x, y) for x, y in line.points]
        for start, end in pairwise(spots):
            self._canvas.line(start, end, colour, 2)

    def _at(self, x: float, y: float) -> tuple[int, int]:
        panel = self._panel
        share = (x - panel.first) / (panel.last - panel.first)
        height = y / self._ceiling * (self._bottom - self._top)
        return round(LEFT + share * (WIDTH - RIGHT - LEFT)), round(self._bottom - height)


def _within(points: Iterable[Point], panel: Panel) -> Iterable[Point]:
    return (point for point in points if panel.first <= point[0] <= panel.last)


def _ticks(first: float, last: float) -> list[float]:
    """Round numbers from `first` to `last`, about eight."""
    rough = (last - first) / 8
    unit = 10.0 ** floor(log10(rough))
    step = unit * next(each for each in (1, 2, 5, 10) if unit * each >= rough)
    return [step * n for n in range(ceil(first / step), floor(last / step) + 1)]
