"""Charts as inline SVG: horizontal bars, lines, and the overlap of two sets.

Every picture stands alone: its own colours for light, dark and print, no script, no font and no address
from outside. The same arguments always give the same text. All values are finite and not negative.
"""

import hashlib
import html
import math
import re
from collections.abc import Mapping, Sequence

COLOURS = (
    # Okabe and Ito's palette, told apart by colour-blind readers; the second of each pair is for dark paper.
    ("#0072b2", "#56a8e0"),
    ("#d98200", "#f0ac3c"),
    ("#008f68", "#3fc39a"),
    ("#b4588f", "#dd92be"),
    ("#c04a00", "#f0824a"),
    ("#5b6b7a", "#9fb0c0"),
)
LIGHT = "--paper:#fff;--tint:#f3f5f7;--ink:#1c2530;--soft:#5a6675;--rule:#d5dbe1;" + "".join(
    f"--c{i}:{pair[0]};" for i, pair in enumerate(COLOURS)
)
DARK = "--paper:#12171d;--tint:#1c232b;--ink:#e6eaee;--soft:#a0acb8;--rule:#343d47;" + "".join(
    f"--c{i}:{pair[1]};" for i, pair in enumerate(COLOURS)
)
FONT = "ui-sans-serif,system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
WIDTH = 460

# Neither XML 1.0 nor a reader's eye can take these: control characters, lone surrogates and the marks that
# turn the direction of text around, with which a peer's words could pose as the page's own.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_STYLE = (
    f".vs{{{LIGHT}}}"
    f"@media screen and (prefers-color-scheme:dark){{.vs{{{DARK}}}}}"
    f".vs text{{font:12px {FONT};fill:var(--ink);font-variant-numeric:tabular-nums}}"
    ".vs .h{font-weight:600;font-size:13px}.vs .s{fill:var(--soft);font-size:11px}"
    ".vs .e{text-anchor:end}.vs .m{text-anchor:middle}"
    ".vs .r{stroke:var(--rule);fill:none}.vs .l{fill:none;stroke-width:2}"
    + "".join(f".vs .c{i}{{fill:var(--c{i})}}.vs .l{i}{{stroke:var(--c{i})}}" for i in range(len(COLOURS)))
)


def escape(value: object) -> str:
    """Return a value as text that is safe in HTML and XML, in elements and in attributes."""
    return html.escape(_UNSAFE.sub("\ufffd", str(value)), quote=True)


def quantity(value: float, unit: str = "") -> str:
    """Return a number with thousands separators and its unit; bytes (``B``), seconds (``s``) are scaled."""
    if not math.isfinite(value):
        return f"{value} {unit}".rstrip()
    if unit == "B":
        return _scaled(value, ("B", "kB", "MB", "GB", "TB"))
    if unit == "s":
        return _scaled(value * 1e6, ("\N{GREEK SMALL LETTER MU}s", "ms", "s")) if value else "0 s"
    return f"{_plain(value)} {unit}".rstrip()


def _scaled(value: float, units: Sequence[str]) -> str:
    """Write a value in the largest unit, each a thousand of the one before, that leaves it at least 1."""
    step = 0
    while abs(value) >= 999.5 and step < len(units) - 1:  # 999.6 would be written as 1,000
        value, step = value / 1000, step + 1
    return f"{_plain(value, 3)} {units[step]}"


def _plain(value: float, digits: int = 6) -> str:
    """Write a number with thousands separators; a fraction with at most so many significant digits."""
    if not math.isfinite(value):
        return "beyond measure"
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    if abs(value) >= 10.0 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:,.{digits}g}"


def bars(
    title: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    unit: str = "",
    stacked: bool = False,
) -> str:
    """Draw horizontal bars: per group one bar of each series, side by side or stacked.

    Args:
        title: what is drawn, in a few words.
        groups: the label over each group of bars.
        series: a name → one value per group; None where it has no part in the group.
        unit: of all values (see `quantity`).
        stacked: lay the series of a group end to end on one bar, labelled with the sum.
    """
    names = list(series)
    columns = [
        [(place, value) for place, value in enumerate(column) if value is not None]
        for column in zip(*series.values(), strict=True)
    ]
    tops = [
        sum(v for _, v in column) if stacked else max((v for _, v in column), default=0.0)
        for column in columns
    ]
    room, most = WIDTH - 78, max(tops, default=0) or 1  # what is left of the width holds the figures
    body, y = _legend(names, 40)
    for label, column, top in zip(groups, columns, tops, strict=True):
        body.append(_text(0, y + 11, _short(label, 66)))
        y, start, left = y + 18, y + 16, 0.0
        for place, value in column:
            width = room * (value / most)
            body.append(_bar(place, left, y, width))
            if stacked:
                left += width
            else:
                body.append(_text(width + 6, y + 9, quantity(value, unit), "s"))
                y += 13
        if stacked:
            body.append(_text(left + 6, y + 9, quantity(top, unit), "s"))
            y += 13
        body.append(f'<path class="r" d="M.5 {start}V{y - 2}"/>')
        y += 8
    about = "; ".join(
        f"{label}: " + ", ".join(f"{names[place]} {quantity(value, unit)}" for place, value in column)
        for label, column in zip(groups, columns, strict=True)
    )
    return _svg(title, about, body, y)


def lines(
    title: str,
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    x_name: str = "",
    unit: str = "",
) -> str:
    """Draw lines over a common, ascending x; the y axis starts at zero.

    Args:
        title: what is drawn, in a few words.
        x: the positions, ascending.
        series: a name → one value per position.
        x_name: what the positions are (``round``).
        unit: of the values (see `quantity`).
    """
    body, top = _legend(list(series), 44)
    ticks = _ticks(max((max(values, default=0.0) for values in series.values()), default=0.0))
    left, right, bottom, peak = 60, WIDTH - 12, top + 196, ticks[-1]
    start, span = (x[0], (x[-1] - x[0]) or 1) if x else (0.0, 1.0)

    def at(position: float, value: float) -> str:
        across = left + (right - left) * (position - start) / span
        return f"{across:.2f} {bottom - (bottom - top) * value / peak:.2f}"

    for tick in ticks:
        y = bottom - (bottom - top) * tick / peak
        body.append(f'<path class="r" d="M{left} {y:.2f}H{right}"/>')
        body.append(_text(left - 7, y + 4, quantity(tick, unit), "s e"))
    for index, values in enumerate(series.values()):
        track = "L".join(at(position, value) for position, value in zip(x, values, strict=True))
        colour = index % len(COLOURS)
        body.append(f'<path class="l l{colour}" d="M{track}"/>' if track else "")
        for position, value in zip(x, values, strict=True):
            across, up = at(position, value).split()
            body.append(f'<circle class="c{colour}" cx="{across}" cy="{up}" r="2.5"/>')
    body.append(_text(left, bottom + 18, quantity(start), "s"))
    body.append(_text((left + right) / 2, bottom + 18, x_name, "s m"))
    body.append(_text(right, bottom + 18, quantity(x[-1] if x else 0.0), "s e"))
    about = "; ".join(
        f"{name}: from {quantity(values[0], unit)} to {quantity(values[-1], unit)}"
        for name, values in series.items()
        if values
    )
    return _svg(title, about, body, bottom + 26)


def overlap(title: str, left: tuple[str, int], right: tuple[str, int], both: int, *, unit: str = "") -> str:
    """Draw two sets as circles whose areas, and that of their common part, are to scale.

    Args:
        title: what is drawn, in a few words.
        left: name and size of the one set.
        right: name and size of the other.
        both: how many the two have in common.
        unit: of the sizes.
    """
    width, largest = 360, max(left[1], right[1], 1)  # narrower: it stands beside a table
    one, two = (78 * math.sqrt(size / largest) for _, size in (left, right))
    gap = _distance(one, two, math.pi * 78**2 * both / largest)
    first = (width - (one + gap + two)) / 2 + one
    body = [
        f'<circle class="c0" cx="{first:.2f}" cy="132" r="{one:.2f}" fill-opacity=".32"/>',
        f'<circle class="c1" cx="{first + gap:.2f}" cy="132" r="{two:.2f}" fill-opacity=".32"/>',
        f'<circle class="l l0" cx="{first:.2f}" cy="132" r="{one:.2f}"/>',
        f'<circle class="l l1" cx="{first + gap:.2f}" cy="132" r="{two:.2f}"/>',
    ]
    parts = ((f"only {left[0]}", left[1] - both), ("both", both), (f"only {right[0]}", right[1] - both))
    for number, (name, size) in enumerate(parts):
        x, anchor = ((0, ""), (width / 2, " m"), (width, " e"))[number]
        body.append(_text(x, 236, quantity(size, unit), "h" + anchor))
        body.append(_text(x, 252, _short(name, 24), "s" + anchor))
    for (name, size), x, anchor in ((left, 0, ""), (right, width, " e")):
        body.append(_text(x, 44, _short(name, 24), anchor.strip()))
        body.append(_text(x, 60, quantity(size, unit), "s" + anchor))
    about = (
        f"{left[0]} holds {quantity(left[1], unit)}, {right[0]} {quantity(right[1], unit)}, "
        f"{quantity(both, unit)} are at both."
    )
    return _svg(title, about, body, 260, width)


def grid(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Draw a confusion matrix: rows are the truth, columns the answers, shaded by their part of the row.

    Args:
        title: what is drawn, in a few words.
        labels: of the classes.
        counts: (classes, classes).
    """
    side, left, top = min(88, 300 // max(len(labels), 1)), 74, 62
    size = side * len(labels)
    body = [_text(left + size / 2, 38, "answer", "s m"), _text(0, top + size / 2 + 4, "truth", "s")]
    for at, label in enumerate(labels):
        middle = side * at + side / 2
        body.append(_text(left + middle, top - 8, _short(label, 12), "s m"))
        body.append(_text(left - 8, top + middle + 4, _short(label, 6), "s e"))
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            x, y = left + side * j, top + side * i
            part = count / (sum(row) or 1)
            square = f'x="{x + 1}" y="{y + 1}" width="{side - 2}" height="{side - 2}"'
            colour = "c0" if i == j else "c1"
            body.append(f'<rect class="{colour}" {square} fill-opacity="{0.08 + 0.5 * part:.3f}"/>')
            body.append(_text(x + side / 2, y + side / 2 + 4, quantity(count), "m"))
    about = "; ".join(
        f"truth {label}: "
        + ", ".join(f"{quantity(n)} as {answer}" for answer, n in zip(labels, row, strict=True))
        for label, row in zip(labels, counts, strict=True)
    )
    return _svg(title, about, body, top + size + 8)


def _distance(one: float, two: float, area: float) -> float:
    """Find how far apart the centres of two circles lie whose common area is given."""
    near, far = abs(one - two), one + two
    for _ in range(40):
        middle = (near + far) / 2
        near, far = (middle, far) if _lens(one, two, middle) > area else (near, middle)
    return far


def _lens(one: float, two: float, gap: float) -> float:
    """Return the area that two circles share (two circular segments)."""
    if gap <= abs(one - two):
        return math.pi * min(one, two) ** 2
    if gap >= one + two:
        return 0.0
    foot = (gap**2 + one**2 - two**2) / (2 * gap)  # from the first centre to the common chord
    return _segment(one, foot) + _segment(two, gap - foot)


def _segment(radius: float, foot: float) -> float:
    """Return the area of a circle beyond a chord at this distance from its centre."""
    half = math.sqrt(max(radius**2 - foot**2, 0.0))
    return radius**2 * math.atan2(half, foot) - foot * half


def _ticks(top: float) -> list[float]:
    """Return about four round values from zero to at least the top."""
    step = 10.0 ** math.floor(math.log10(top / 4)) if top > 0 else 1.0
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if factor * step * 4 >= top)
    return [step * i for i in range(5)]


def _legend(names: Sequence[str], y: int) -> tuple[list[str], int]:
    """Draw a key to the colours under the title and return where the drawing may begin."""
    if len(names) < 2:
        return [], y
    parts, x = [], 0.0
    for index, name in enumerate(_short(name, 60) for name in names):
        width = 28 + 6.4 * len(name)  # an upper estimate: SVG cannot measure text
        if x and x + width > WIDTH:
            x, y = 0.0, y + 17
        parts.append(
            f'<rect class="c{index % len(COLOURS)}" x="{x:.1f}" y="{y - 9}" width="10" height="10"/>'
        )
        parts.append(_text(x + 15, y, name, "s"))
        x += width
    return parts, y + 18


def _bar(series: int, x: float, y: float, width: float) -> str:
    return f'<rect class="c{series % len(COLOURS)}" x="{x:.2f}" y="{y}" width="{width:.2f}" height="9"/>'


def _short(text: str, letters: int) -> str:
    """Cut a label that would run out of the picture; the description keeps it whole."""
    return text if len(text) <= letters else text[: letters - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _text(x: float, y: float, text: str, css: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    return f'<text{kind} x="{x:.2f}" y="{y:.2f}">{escape(text)}</text>'


def _svg(title: str, about: str, body: Sequence[str], height: float, width: int = WIDTH) -> str:
    """Wrap a drawing with its size, style and the words that a screen reader speaks."""
    name = "vs" + hashlib.sha256("\n".join((title, about, *body)).encode(errors="replace")).hexdigest()[:10]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="vs" role="img" viewBox="0 0 {width} {height:.0f}" '
        f'aria-labelledby="{name}t {name}d">'
        f'<title id="{name}t">{escape(title)}</title><desc id="{name}d">{escape(about)}</desc>'
        f"<style>{_STYLE}</style>{_text(0, 16, title, 'h')}{''.join(body)}</svg>"
    )
