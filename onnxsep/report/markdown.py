"""The kit that Markdown reports are made of, for a pull request; text is escaped by its writers."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def table(titles: Sequence[str], lines: Sequence[Sequence[str]], right: Collection[int]) -> str:
    """A table of cells that are escaped already.

    Args:
        titles: Heads of the columns.
        lines: Rows of as many cells.
        right: Columns that are aligned to the right, from 0.
    """
    rule = ["---:" if place in right else "---" for place in range(len(titles))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (titles, rule, *lines))


def bullets(lines: Sequence[str]) -> str:
    """A list; nothing if there are no lines."""
    return "\n".join(f"- {line}" for line in lines)


def folded(title: str, content: str) -> str:
    """Content that unfolds on a click."""
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def document(blocks: Sequence[str]) -> str:
    """Blocks with an empty line between them; empty ones are left out."""
    return "\n\n".join(block for block in blocks if block) + "\n"
