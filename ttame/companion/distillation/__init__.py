"""The shipped Vision Transformer: its student, its teacher and the run that made it."""
