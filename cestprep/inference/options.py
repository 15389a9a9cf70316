"""Checks of what users may set."""

from __future__ import annotations

from collections.abc import Collection


def within(least: float, most: float, **options: float | None) -> None:
    """Raise ValueError where an option is outside a range; NaN is, None (a default) is not."""
    for name, value in options.items():
        if value is not None and not least <= value <= most:
            raise ValueError(f"{name}={value}: expected {least:.12g} to {most:.12g}")


def at_most(most: int, names: Collection[str]) -> None:
    """Raise ValueError where more parameters are free than a method can do."""
    if len(names) > most:
        found = f"{len(names)} ({', '.join(names)})"
        raise ValueError(f"the method estimates {most} parameters at most, free are {found}")
