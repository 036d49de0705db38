"""The network of a live page: the exported explainer and the runtime, packed for a browser.

A part is gzip in base64, within the page or in a script beside it: pages that are opened from a
disk may fetch neither files nor modules, but may load scripts.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ttame.classifiers.classes import short_name
from ttame.classifiers.weights import weight_digest
from ttame.companion.page.assembly import worker
from ttame.companion.page.runtime import PACKAGE, Runtime, read_runtime
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.files import replacing

METHOD = "T-TAME"  # as which the network's own maps are shown
RUNTIME_FILE, MODEL_FILE = "runtime.js", "model.js"
_FILES = {"script": RUNTIME_FILE, "wasm": RUNTIME_FILE, "model": MODEL_FILE}


@dataclass(frozen=True, repr=False)
class Network:
    """A network that a page runs when its reader asks for it.

    Attributes:
        facts: What the page's script needs to know of it, of JSON types.
        elements: HTML that holds its parts; empty if they lie in scripts beside the page.
    """

    facts: Mapping[str, object]
    elements: str = ""


def embedded(explainer: Explainer) -> Network:
    """Export an explainer, to be carried by the page itself.

    Raises:
        TTameError: If it cannot be exported, or does not take photos in colour.
    """
    facts, runtime = _facts(explainer), read_runtime()
    parts = [
        f'<script type="text/plain" id="{_element(name)}">{text}</script>\n'
        for name, text in _packed(explainer, runtime).items()
    ]
    listed = [{"name": name, "element": _element(name)} for name in _FILES]
    return Network({**facts, "parts": listed}, f"<!--\n{_notice(runtime)}-->\n{''.join(parts)}")


def linked(explainer: Explainer, address: str) -> Network:
    """Describe an explainer whose parts lie beside the page, written by `write_parts`.

    Args:
        explainer: The same explainer.
        address: Address of their folder, as seen from the page, such as `"."`.

    Raises:
        TTameError: If it does not take photos in colour.
    """
    digests = _digests(explainer, read_runtime())
    listed = [
        {"name": name, "script": f"{address.rstrip('/')}/{file}", "digest": digests[file]}
        for name, file in _FILES.items()
    ]
    return Network({**_facts(explainer), "parts": listed})


def write_parts(explainer: Explainer, folder: Path | str) -> list[Path]:
    """Export an explainer and write the scripts that `linked` pages load.

    Returns:
        `runtime.js` and `model.js`.

    Raises:
        TTameError: If it cannot be exported, or a file cannot be written.
    """
    _facts(explainer)
    runtime = read_runtime()
    packed, digests = _packed(explainer, runtime), _digests(explainer, runtime)
    written = []
    for file in (RUNTIME_FILE, MODEL_FILE):
        parts = {
            name: {"digest": digests[file], "text": packed[name]}
            for name in _FILES
            if _FILES[name] == file
        }
        notice = f"/*!\n{_notice(runtime)}*/\n" if file == RUNTIME_FILE else ""
        with replacing(Path(folder) / file) as temporary:
            temporary.write_text(
                f"{notice}self.ttameParts = {{ ...self.ttameParts, ...{json.dumps(parts)} }};\n",
                encoding="utf-8",
            )
        written.append(Path(folder) / file)
    return written


def _facts(explainer: Explainer) -> dict[str, object]:
    """Collect what the script needs to prepare photos and to read the outputs."""
    spec = explainer.spec
    if spec.channels != 3:
        raise TTameError(
            f"a page shows photos in colour to the network, {spec.name} takes {spec.channels} "
            "channels; explain arrays with Explainer.explain instead"
        )
    return {
        "method": METHOD,
        "names": explainer.classes,
        "labels": [short_name(name) for name in explainer.classes],
        "activation": spec.activation,
        "mean": spec.mean,
        "std": spec.std,
        "space": spec.space,
        "resize": spec.resize,
        "interpolation": spec.interpolation,
        "worker": worker(),
    }


def _packed(explainer: Explainer, runtime: Runtime) -> dict[str, str]:
    """Export an explainer and pack each part as text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        explainer.export(path, storage="float16", batch=1)  # the page shows it one at a time
        parts = {"script": runtime.script, "wasm": runtime.wasm, "model": path.read_bytes()}
    return {
        name: b64encode(gzip.compress(content, 9, mtime=0)).decode()
        for name, content in parts.items()
    }


def _digests(explainer: Explainer, runtime: Runtime) -> dict[str, str]:
    """Tell by which texts a page knows the files that belong to it."""
    model = f"{weight_digest(explainer.classifier)} {weight_digest(explainer.mechanism)}"
    return {RUNTIME_FILE: runtime.version, MODEL_FILE: model}


def _element(name: str) -> str:
    return f"ttame-{name}"


def _notice(runtime: Runtime) -> str:
    return f"This holds ONNX Runtime ({PACKAGE} {runtime.version}).\n\n{runtime.licence}"
