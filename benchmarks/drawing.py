"""The plot of a run for documents, as plain SVG: it is readable as a picture and as a diff."""

import html
import math
from collections.abc import Sequence

from benchmarks.summary import ArmSummary

ROW, BAR, TOP, LEFT, WIDTH, GAP, RIGHT = 22, 12, 46, 250, 330, 90, 90
WORKERS, SERVERS, TEXT, FAINT = "#4477aa", "#ccbb44", "#333333", "#999999"
STYLE = "font: 12px sans-serif"


def rates_svg(found: Sequence[ArmSummary]) -> str:
    """Median rates on a logarithmic scale, with the range of the rounds as a line, and the CPU per file."""
    shown = sorted(found, key=lambda line: line.median)
    height = TOP + ROW * len(shown) + 10
    second = LEFT + WIDTH + GAP
    low = 10 ** math.floor(math.log10(min(line.least for line in shown)))
    high = 10 ** math.ceil(math.log10(max(line.greatest for line in shown)))
    cpu_most = max(line.worker_cpu_us + line.server_cpu_us for line in shown) or 1.0

    def place(rate: float) -> float:
        return LEFT + WIDTH * math.log10(rate / low) / max(1.0, math.log10(high / low))

    parts = [
        _text(LEFT, 16, "files per second (powers of ten); the line: least to greatest round"),
        _text(second, 16, "CPU µs per file: workers, servers"),
        _box(second, 24, 10, WORKERS),
        _text(second + 14, 34, "workers", FAINT),
        _box(second + 80, 24, 10, SERVERS),
        _text(second + 94, 34, "Kafka, PostgreSQL, S3", FAINT),
    ]
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        x = place(10.0**power)
        parts.append(_line(x, x, TOP - 6, height - 6, "#dddddd"))
        parts.append(_text(x, TOP - 10, f"{10**power:,}", FAINT, "middle"))
    for row, line in enumerate(reversed(shown)):
        y = TOP + ROW * row
        middle = y + BAR / 2
        end = place(line.median)
        own, theirs = (WIDTH * cost / cpu_most for cost in (line.worker_cpu_us, line.server_cpu_us))
        parts += [
            _text(LEFT - 8, y + BAR - 2, line.arm, TEXT, "end"),
            _box(LEFT, y, end - LEFT, WORKERS),
            _line(place(line.least), place(line.greatest), middle, middle, TEXT),
            _text(place(line.greatest) + 6, y + BAR - 2, f"{line.median:,.0f}"),
            _box(second, y, own, WORKERS),
            _box(second + own, y, theirs, SERVERS),
            _text(second + own + theirs + 6, y + BAR - 2, f"{line.worker_cpu_us + line.server_cpu_us:,.0f}"),
        ]
    width = second + WIDTH + RIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'style="{STYLE}"><rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, colour: str = TEXT, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _line(x1: float, x2: float, y1: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="2"/>'


def _box(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{BAR}" fill="{colour}"/>'
