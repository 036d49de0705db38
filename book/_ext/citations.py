"""Sphinx extension: citations and the entries of the bibliography have the same author-year labels.

The list that comes with sphinxcontrib-bibtex is numbered, whatever its references show, and its
references cannot tell two papers of the same authors and year apart.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count
from string import ascii_lowercase

from pybtex.database import Entry, Person
from pybtex.plugin import register_plugin
from pybtex.richtext import Text
from pybtex.style.formatting.plain import Style
from pybtex.style.labels import BaseLabelStyle
from pybtex.style.sorting.author_year_title import SortingStyle
from sphinx.application import Sphinx

NAME = "author_year"


class AuthorYearLabels(BaseLabelStyle):  # type: ignore[misc]  # pybtex has no types
    """Labels such as "Selvaraju et al., 2017", with a letter where two are the same."""

    def format_labels(self, sorted_entries: Iterable[Entry]) -> Iterator[str]:
        """Yield the label of each entry, in their order."""
        labels = [f"{_authors(entry)}, {entry.fields['year']}" for entry in sorted_entries]
        shared = {label: count() for label, found in Counter(labels).items() if found > 1}
        for label in labels:
            yield label + (ascii_lowercase[next(shared[label])] if label in shared else "")


class AuthorOrder(SortingStyle):  # type: ignore[misc]
    """The plain order, in which the braces around a group's name do not count."""

    def person_key(self, person: Person) -> str:
        """Return what a person is sorted by."""
        key: str = super().person_key(person)
        plain = str(Text.from_latex(key))  # of B{\"o}hle and of a group's braces
        return "".join(
            c for c in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(c)
        )


class AuthorYearStyle(Style):  # type: ignore[misc]
    """The plain style in `AuthorOrder`, with `AuthorYearLabels` in the place of numbers."""

    default_label_style = NAME
    default_sorting_style = NAME


def _authors(entry: Entry) -> str:
    """The surnames of an entry's authors: one, both of two, or the first of more."""
    # Rich names are without LaTeX's accents and braces.
    names = [" ".join(map(str, person.rich_last_names)) for person in entry.persons["author"]]
    return names[0] + (" et al." if len(names) > 2 else f" and {names[1]}" if names[1:] else "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the style under `NAME`; `_config.yml` chooses it."""
    register_plugin("pybtex.style.labels", NAME, AuthorYearLabels)
    register_plugin("pybtex.style.sorting", NAME, AuthorOrder)
    register_plugin("pybtex.style.formatting", NAME, AuthorYearStyle)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
