"""Sizes in words: decimal units, three digits, everywhere. Exact bytes only where two counts are compared."""

from __future__ import annotations


def size(count: int) -> str:
    """Decimal units, three digits: `3.4 MB`."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5 or unit == "TB":
            break
        amount /= 1000
    if unit == "B":
        return f"{count} B"
    return f"{amount:.0f} {unit}" if amount >= 99.5 else f"{amount:.1f} {unit}"
