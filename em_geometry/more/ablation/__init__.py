"""Directions taken out of organisms: margins and judged answers."""
