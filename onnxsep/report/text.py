"""Words and numbers for people: safe names, thousands, ratios."""

from __future__ import annotations

_THOUSAND = 1000.0


def printable(text: str) -> str:
    """``text`` on one line and without control characters.

    Names out of a model cannot move the cursor or pass for lines of our own.
    """
    return "".join(
        character if character.isprintable() else " " if character.isspace() else "�"
        for character in text
    )


def shortened(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters (1 or more); the end of a name tells most."""
    text = printable(text)
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def quantity(value: float) -> str:
    """Three significant digits with a metric prefix: 40.6 M."""
    for prefix in ("", " k", " M", " G", " T"):
        for decimals in (2, 1, 0) if prefix else (0,):
            text = f"{value:.{decimals}f}"
            # Of the rounded number: 9.999 has four digits with two decimals, and 999.9 none.
            if abs(float(text)) * 10**decimals < _THOUSAND:
                return text + prefix
        value /= _THOUSAND
    return f"{value:.3g} P"


def times(before: float, after: float) -> str:
    """How many times less: 2.31x; a dash where nothing was."""
    return f"{before / after:.2f}x" if after else "-"
