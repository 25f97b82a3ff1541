"""Words and numbers for people: safe names, thousands, ratios."""

from __future__ import annotations

_THOUSAND = 1000.0


def printable(text: str) -> str:
    """``text`` without control characters, so that names out of a model cannot move the cursor."""
    return "".join(
        character if character.isprintable() or character == "\n" else "�" for character in text
    )


def shortened(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters; the end of a layer's name tells most."""
    text = printable(text)
    return text if len(text) <= width else "…" + text[-(width - 1) :]


def quantity(value: float) -> str:
    """Three significant digits with a metric prefix: 40.6 M."""
    for prefix in ("", " k", " M", " G", " T"):
        if abs(value) < _THOUSAND:
            digits = 0 if prefix == "" else 2 if value < 10 else 1 if value < 100 else 0
            return f"{value:.{digits}f}{prefix}"
        value /= _THOUSAND
    return f"{value:.3g} P"


def times(before: float, after: float) -> str:
    """How many times less: 2.31x; a dash where nothing was."""
    return f"{before / after:.2f}x" if after else "-"
