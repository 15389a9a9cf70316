"""Checks of what users may set."""

from __future__ import annotations


def within(least: float, most: float, **options: float | None) -> None:
    """Raise ValueError where an option is outside a range; NaN is, None (a default) is not."""
    for name, value in options.items():
        if value is not None and not least <= value <= most:
            raise ValueError(f"{name}={value}: expected {least:.12g} to {most:.12g}")
