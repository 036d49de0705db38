"""A page for anyone: an explainer that runs in its reader's browser, in one file to send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ttame.companion.exploration import check_page, explore
from ttame.companion.page.network import embedded, write_parts
from ttame.data import samples
from ttame.explainer import Explainer
from ttame.images import ImageLike

SAMPLES = (
    "citrus_fruits", "cat", "honey_bee", "photographer", "suspension_bridge", "scarlet_macaw",
)  # fmt: skip


def demo(
    explainer: Explainer,
    path: Path | str,
    photos: ImageLike | Sequence[ImageLike] | None = None,
    *,
    classes: int = 5,
    methods: Sequence[str] | None = None,
    title: str | None = None,
    single: bool = True,
) -> Path:
    """Write a page in which the explainer runs, on photos that its reader drops there.

    The page works from a disk and from any host of files, and sends nothing anywhere. It holds
    the classifier's weights as float16 and ONNX Runtime, about 7 MB more than those weights.

    Args:
        explainer: What is to run there.
        path: Output file, `.html` or `.htm`.
        photos: Photos that the page begins with, explained beforehand; default: six of the
            shipped samples.
        classes: Most probable classes to list per photo.
        methods: Methods to compare on these photos, T-TAME among them, as for `ttame.explore`.
        title: Title of the page; default: the classifier's name.
        single: Put all into one file. Otherwise network and runtime lie beside the page, in
            `model.js` and `runtime.js`, and are loaded when they are first asked for.

    Returns:
        Path of the page.

    Raises:
        TTameError: If the explainer cannot be exported or does not take photos in colour, a photo
            cannot be read, or a file cannot be written.
    """
    path = check_page(path)
    if photos is None:
        stored = {found.stem: found for found in samples().paths}
        photos = [stored[name] for name in SAMPLES]
    classes = min(classes, len(explainer.classes))
    # First what may be refused: to export takes longer.
    page = explore(explainer, photos, classes=classes, methods=methods, live=".")
    if single:
        page = replace(page, network=embedded(explainer))
    else:
        write_parts(explainer, path.parent)
    return page.save(path, title or f"What {explainer.spec.name} looks at")
