"""Figures of the book, each with a description in words."""

from ttame.errors import require

require("evaluate", "seaborn", "pandas")
