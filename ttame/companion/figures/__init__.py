"""Figures of the book, each with an alternative text."""

from ttame.errors import require

require("evaluate", "seaborn", "pandas")
