"""Numbers and tables as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""A Markdown table.

    >>> print(table(("a", "b"), [(1, "x|y")]))
    | a | b |
    |---|---|
    | 1 | x\|y |
    """
    lines = [header, *rows]
    texts = ["| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines]
    return "\n".join([texts[0], "|" + "---|" * len(header), *texts[1:]])


def percent(share: float | None) -> str:
    """A share of 0 to 1 as text.

    >>> percent(0.1234), percent(None)
    ('12.3 %', '')
    """
    return "" if share is None else f"{share:.1%}".replace("%", " %")


def interval(ends: Sequence[float]) -> str:
    """An interval of shares as text.

    >>> interval((0.1, 0.25))
    '10.0 to 25.0 %'
    """
    return f"{100 * ends[0]:.1f} to {percent(ends[1])}"
