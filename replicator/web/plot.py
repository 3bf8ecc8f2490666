"""A small line plot of the last hour, as SVG without JavaScript.

The picture is stretched to the page's width, so it has no text: labels stand beside it, and a
label for screen readers says what it shows.
"""

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

_WIDTH: Final = 600
_HEIGHT: Final = 80
# Longer without a sample, and the line is cut: nothing is known of that time.
_CUT_SECONDS: Final = 45.0


def plot(
    title: str,
    ages: Sequence[float],
    values: Sequence[float],
    *,
    span_seconds: float,
    words: Callable[[float], str],
) -> str:
    """Return a figure.

    Args:
        title: plain text.
        ages: of the samples in seconds, oldest first.
        values: one for each age, none negative.
        span_seconds: the width of the plot.
        words: formats a value for people.
    """
    caption = f"<figcaption>{escape(title)}</figcaption>"
    if len(values) < 2:
        return f"<figure>{caption}<p class=quiet>No line yet: two samples are needed.</p></figure>"
    top = max(values)
    said = f"{title}: now {words(values[-1])}, max {words(top)} in the last hour"
    lines = "".join(
        f'<path class=area d="{line} V{_HEIGHT} H{start:.1f} Z"/><path class=line d="{line}"/>'
        for start, line in _lines(ages, values, top or 1.0, span_seconds)
    )
    return (
        f"<figure>{caption}"
        f'<svg role=img aria-label="{escape(said)}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f"preserveAspectRatio=none>{lines}</svg>"
        f"<p class=axis><span>an hour ago</span><span>now {escape(words(values[-1]))}, "
        f"max {escape(words(top))}</span></p></figure>"
    )


def _lines(
    ages: Sequence[float], values: Sequence[float], top: float, span_seconds: float
) -> list[tuple[float, str]]:
    """Return each unbroken line: where it starts, and its path."""
    found: list[tuple[float, list[str]]] = []
    last: float | None = None
    for age, value in zip(ages, values, strict=True):
        x = _WIDTH * (1 - min(1.0, age / span_seconds))
        # One unit of margin above and below, or half of the line's width would be cut off.
        y = 1 + (_HEIGHT - 2) * (1 - value / top)
        if last is None or last - age > _CUT_SECONDS:
            found.append((x, []))
        found[-1][1].append(f"{x:.1f} {y:.1f}")
        last = age
    return [(start, "M" + " L".join(points)) for start, points in found]
