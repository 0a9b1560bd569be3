"""Numbers, text and tables in LaTeX."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

BORROWED = r"\textsuperscript{b}"
"""Marks an interval whose width is pooled over several runs."""


def number(value: float, digits: int | None = None) -> str:
    """Write a number: with `digits` decimals, or by itself with an exponent where it is far from 1; a dash for NaN."""
    if math.isnan(value):
        return "--"
    if math.isinf(value):
        return r"$\infty$" if value > 0 else r"$-\infty$"
    if digits is not None:
        return f"{value:,.{digits}f}".replace(",", "\\,").replace("-", "$-$")
    if value == 0 or 1e-2 <= abs(value) < 999.5:  # from there on, three digits need an exponent
        return f"{value:.3g}".replace("-", "$-$")
    mantissa, exponent = f"{value:.1e}".split("e")
    exact = math.isclose(value, float(f"{mantissa}e{exponent}"), rel_tol=1e-9)
    factor = "" if exact and mantissa == "1.0" else f"{mantissa.removesuffix('.0') if exact else mantissa} \\times "
    return f"${factor}10^{{{int(exponent)}}}$"


def signed(value: float, digits: int) -> str:
    """Write a difference with its sign; one that rounds to 0 has none."""
    text = number(value, digits)
    return f"$+${text}" if round(value, digits) > 0 else text.removeprefix("$-$") if not round(value, digits) else text


def bracket(value: float, uncertainty: float, digits: int) -> str:
    """Write 1.815 +- 0.003 as 1.815(3); with `digits` decimals and no bracket where there is no uncertainty."""
    if not uncertainty > 0 or math.isinf(uncertainty):
        return number(value, digits)
    if uncertainty >= 10:  # units of a digit before the point would mislead
        return f"{number(value)} $\\pm$ {number(uncertainty)}"
    places = max(0, -int(f"{uncertainty:.0e}".partition("e")[2]))  # of the one digit that is kept, once rounded
    return f"{number(value, places)}({round(uncertainty * 10**places)})"


def escape(text: str) -> str:
    """Escape text."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)


def code(name: str) -> str:
    """Write a name as it is typed."""
    return f"\\texttt{{{escape(name)}}}"


def tabular(columns: str, head: Sequence[str], *bodies: Iterable[Sequence[str]]) -> str:
    r"""Write a booktabs table.

    Args:
        columns: LaTeX's column specification.
        head: lines between the top and the middle rule, each complete.
        bodies: the cells of each row; a rule stands between one body and the next.
    """
    lines = [f"\\begin{{tabular}}{{{columns}}}", r"\toprule", *head]
    for body in bodies:
        lines += [r"\midrule", *(" & ".join(cells) + r" \\" for cells in body)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])
