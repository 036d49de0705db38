"""Sphinx extension: numbers stay on the line of their unit."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

# What is typed, or written by a machine.
_VERBATIM = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)


def tied(text: str) -> str:
    """Put a no-break space between a number and its percent sign."""
    return re.sub(r"(?<=\d) %", "\u00a0%", text)


class TiePercents(SphinxPostTransform):
    """Ties the percentages of all running text."""

    default_priority = 900  # after the cells' outputs are there

    def run(self, **_: object) -> None:
        """Replace the texts that change."""
        for text in list(self.document.findall(nodes.Text)):
            plain = text.astext()
            if tied(plain) != plain and not isinstance(text.parent, _VERBATIM):
                text.parent.replace(text, nodes.Text(tied(plain)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the step; Sphinx calls this."""
    app.add_post_transform(TiePercents)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
