"""Assembly: the page's files in `web/`, joined into one piece of HTML.

Its script is written in modules. Browsers refuse to import modules from files that are opened from
a disk, so each becomes a function that returns what it exports.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

WEB = Path(__file__).with_name("web")
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (const|class) (\w+)", re.MULTILINE)
_PLACE = re.compile(r"\{\{ (\w+) \}\}")


def widget(data: Mapping[str, object]) -> str:
    """Make the HTML of the interactive part, with its style, script and data.

    Args:
        data: What the script reads, of JSON types.
    """
    # No "<" in the data: neither a tag nor a comment can begin or end inside the script.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    style, form = (_text(name) for name in ("page.css", "widget.html"))
    joined = script("page.js")
    return f"<style>\n{style}</style>\n{_filled(form, data=text)}<script>\n{joined}</script>\n"


def document(title: str, body: str) -> str:
    """Make a whole page.

    Args:
        title: Title, as text.
        body: Body, as HTML.
    """
    return _filled(_text("document.html"), title=escape(title), body=body)


def script(entry: str) -> str:
    """Join a module and all that it imports, in an order in which none waits for a later one."""
    done: dict[str, str] = {}

    def add(name: str) -> None:
        source = _text(name)
        for _, imported in _IMPORT.findall(source):
            if imported not in done:
                add(imported)
        body = _IMPORT.sub(r'const {\1} = modules["\2"];\n', source)
        exported = ", ".join(found for _, found in _EXPORT.findall(body))
        body = _EXPORT.sub(r"\1 \2", body)
        done[name] = f'modules["{name}"] = (() => {{\n{body}return {{ {exported} }};\n}})();\n'

    add(entry)
    return f'(() => {{\n"use strict";\nconst modules = {{}};\n{"".join(done.values())}}})();\n'


def worker() -> str:
    """Return the script that runs the network beside the page."""
    return _text("worker.js")


def _text(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def _filled(template: str, **values: str) -> str:
    """Fill a template's places; what is filled in is not searched for places."""
    return _PLACE.sub(lambda place: values[place[1]], template)
