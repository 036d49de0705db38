"""The shipped Vision Transformer: its student, its teacher and the run that made it."""

from ttame.errors import require

require("train")
