"""An interactive page of explanations: readers choose photo, class, method and retained pixels.

What is shown first is computed beforehand: the page holds the photos, the maps and the measured
probabilities. With a `Network` it also explains its reader's own photos, in the browser. Style and
script are the files of `ttame.companion.page`; the page works as a file, without a server, and asks
no other machine for anything.
"""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ttame.classifiers.classes import ClassLike
from ttame.classifiers.specs import BackboneSpec, masked_probabilities
from ttame.classifiers.weights import input_like
from ttame.companion.page.assembly import document, widget
from ttame.companion.page.network import METHOD, Network, linked
from ttame.errors import TTameError, require
from ttame.explainer import Explainer
from ttame.explanation import Explanation
from ttame.files import replacing
from ttame.images import ImageLike, normalize
from ttame.masking import degenerate, normalize_maps
from ttame.methods import build
from ttame.plotting import colorize, render

if TYPE_CHECKING:
    import pandas as pd

SHARES = (100, 75, 50, 30, 15, 5)


@dataclass(frozen=True, repr=False, eq=False)
class Exploration:
    """Contents of the interactive page; a notebook displays it, `save` writes it to a file.

    Attributes:
        explanation: N photos and their T explained classes.
        names: Names of the photos.
        maps: Raw maps by method, `(N, T, h, w)`.
        probabilities: Probabilities of the explained classes at each share of retained pixels, by
            method, `(N, T, S)`.
        shares: S shares of retained pixels, percent, descending.
        spec: Facts of the classifier.
        network: What the page runs when it is asked to; `None` shows what was computed beforehand.
    """

    explanation: Explanation
    names: tuple[str, ...]
    maps: Mapping[str, Tensor]
    probabilities: Mapping[str, Tensor]
    shares: tuple[int, ...]
    spec: BackboneSpec
    network: Network | None = None

    def __repr__(self) -> str:
        photos, classes = self.explanation.targets.shape
        return f"Exploration({photos} photos, {classes} classes each, {', '.join(self.maps)})"

    def data(self) -> dict[str, object]:
        """Return what the page's script reads: JSON types, with photos and maps in base64.

        Maps are scaled to their own range and stored at their own resolution in 256 steps, as
        zlib-compressed differences between neighbours.
        """
        height, width = self.explanation.images.shape[-2:]
        steps = (torch.arange(256) / 256)[None]
        mean = torch.tensor(self.spec.mean).view(-1, 1, 1)
        fill = render(torch.zeros_like(mean) if self.spec.space == "raw" else mean).flatten()
        return {
            "classifier": self.spec.name,
            "size": [height, width],
            "shares": self.shares,
            # Counted here as in `masking.keep_top`: JavaScript rounds halves differently.
            "kept": [round(share / 100 * height * width) for share in self.shares],
            "fill": [255 * value for value in fill.tolist()],  # colour of masked pixels
            "colors": _table(colorize(steps)),
            "signed": _table(colorize(steps, signed=True)),
            "top": self.explanation.targets.shape[1],  # classes listed for a photo
            "note": _note(self.spec, height, width),
            "live": None if self.network is None else self.network.facts,
            "photos": [
                {
                    "name": name,
                    "webp": _webp(image),
                    "targets": targets,
                    "classes": labels,
                    "whole": whole,
                }
                for name, image, targets, labels, whole in zip(
                    self.names,
                    render(self.explanation.images),
                    self.explanation.targets.tolist(),
                    self.explanation.names(),
                    self.explanation.probabilities().tolist(),
                    strict=True,
                )
            ],
            "methods": [
                {
                    "name": name,
                    "size": list(maps.shape[-2:]),
                    "maps": [[_packed(item) for item in row] for row in normalize_maps(maps)],
                    "constant": degenerate(maps).tolist(),
                    "masked": self.probabilities[name].tolist(),
                }
                for name, maps in self.maps.items()
            ],
        }

    def table(self) -> pd.DataFrame:
        """Return the probabilities, one row per photo, class, method and share.

        Returns:
            Columns `photo`, `class`, `method`, `share` (percent), and the probabilities `whole`, of
            the whole photo, and `masked`, of the photo with that share of its pixels.
        """
        require("evaluate", "pandas")
        import pandas as pd

        labels, whole = self.explanation.names(), self.explanation.probabilities().tolist()
        rows = [
            (self.names[photo], labels[photo][k], method, share, whole[photo][k], value)
            for method, found in self.probabilities.items()
            for photo, of_classes in enumerate(found.tolist())
            for k, of_shares in enumerate(of_classes)
            for share, value in zip(self.shares, of_shares, strict=True)
        ]
        columns = ["photo", "class", "method", "share", "whole", "masked"]
        return pd.DataFrame(rows, columns=columns)

    def save(self, path: Path | str, title: str = "Explanation maps") -> Path:
        """Write the page as one self-contained HTML file, atomically.

        Args:
            path: Output file, `.html` or `.htm`.
            title: Title of the page.

        Returns:
            Path of the file.

        Raises:
            TTameError: If the file cannot be written, or its name has another suffix.
        """
        path = check_page(path)
        with replacing(path) as temporary:
            temporary.write_text(document(title, self._repr_html_()), encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        return ("" if self.network is None else self.network.elements) + widget(self.data())


def check_page(path: Path | str) -> Path:
    """Return the path of a page that is to be written.

    Raises:
        TTameError: If its name has another suffix than `.html` or `.htm`.
    """
    path = Path(path)
    if path.suffix not in (".html", ".htm"):
        raise TTameError(f"an interactive page's file ends in .html, got {path.name!r}")
    return path


def explore(
    explainer: Explainer,
    photos: ImageLike | Sequence[ImageLike],
    *,
    classes: int | Sequence[ClassLike] = 5,
    methods: Sequence[str] | None = None,
    shares: Sequence[int] = SHARES,
    names: Sequence[str] | None = None,
    live: Network | str | None = None,
    seed: int = 0,
) -> Exploration:
    """Explain photos by several methods, for an interactive page.

    The probability of each class is measured at each share of retained pixels, as for Average Drop
    (`ttame.classifiers.specs.masked_probabilities`), and never interpolated.

    Args:
        explainer: Explainer whose classifier is explained.
        photos: Photos, as for `Explainer.explain`; the page grows heavy beyond about twenty.
        classes: Number of most probable classes per photo, or the classes to explain on every
            photo, by index or name.
        methods: Names in `ttame.methods.METHODS`; default: T-TAME, and Grad-CAM where
            `ttame[evaluate]` is installed.
        shares: Shares of retained pixels, percent.
        names: Names of the photos; default: their file names.
        live: Let the page run the network, too: where the scripts lie that
            `ttame.companion.page.network.write_parts` made, as seen from the page, or a `Network`.
            `ttame.demo` makes such a page in one file.
        seed: Tie-break seed for pixels of equal value.

    Raises:
        TTameError: If there are no photos or one cannot be read, a class, method or share does not
            exist, or a method does not apply to the classifier.
    """
    many = isinstance(photos, (list, tuple)) or getattr(photos, "ndim", 0) == 4
    items: list[ImageLike] = list(photos) if many else [photos]  # type: ignore[arg-type, list-item]
    if not items:
        raise TTameError("got no photos to explore; pass at least one")
    if isinstance(classes, int) and not 1 <= classes <= len(explainer.classes):
        raise TTameError(
            f"classes={classes} must lie in 1..{len(explainer.classes)}, the number of classes "
            "that the classifier has; or name the classes"
        )
    wrong = [share for share in shares if not 0 < share <= 100]
    if wrong or not shares:
        raise TTameError(f"shares of pixels are percentages in (0, 100], got {list(shares)}")
    if methods is None:
        methods = ("T-TAME", "Grad-CAM") if find_spec("pytorch_grad_cam") else ("T-TAME",)
    if not methods:
        raise TTameError("got no methods; name at least one, such as 'T-TAME'")
    if names is not None and len(names) != len(items):
        raise TTameError(f"got {len(names)} names for {len(items)} photos; give one each")
    chosen = [methods] if isinstance(methods, str) else list(methods)
    if live is not None and METHOD not in chosen:
        raise TTameError(f"a live page shows {METHOD!r}, got methods={chosen}; name it as well")
    network = linked(explainer, live) if isinstance(live, str) else live
    bound = {name: build(name, explainer) for name in chosen}
    percentages = tuple(sorted(set(shares), reverse=True))
    if isinstance(classes, int):
        explanation = explainer.explain(items, top_k=classes)
    else:
        explanation = explainer.explain(items, [list(classes)] * len(items))

    images = normalize(explanation.images, explainer.spec).to(input_like(explainer.classifier))
    maps: dict[str, list[Tensor]] = {name: [] for name in bound}
    measured: dict[str, list[Tensor]] = {name: [] for name in bound}
    for image, targets in zip(images, explanation.targets.to(images.device), strict=True):
        batch = image.repeat(len(targets), 1, 1, 1)
        for name, method in bound.items():
            found = method(batch, targets).detach()
            probabilities = masked_probabilities(
                explainer.classifier, explainer.spec, batch, found, targets, percentages, seed
            )
            maps[name].append(found[:, 0].float().cpu())
            measured[name].append(probabilities.cpu())
    return Exploration(
        explanation=explanation,
        names=tuple(names or (_title(item, place) for place, item in enumerate(items))),
        maps={name: torch.stack(found) for name, found in maps.items()},
        probabilities={name: torch.stack(found) for name, found in measured.items()},
        shares=percentages,
        spec=explainer.spec,
        network=network,
    )


def _note(spec: BackboneSpec, height: int, width: int) -> str:
    """Say how the numbers of a page come about."""
    fill = "black" if spec.space == "raw" else "the mean colour"
    return (
        f"{spec.name} sees {height} × {width} pixels. A map is scaled to its own range and "
        "enlarged bilinearly; exactly the chosen share of pixels keeps its value, all others are "
        f"set to 0. The classifier then gets the photo multiplied by the map, {fill} where it is "
        "0, so at 100\u202f% every pixel is kept, but dimmed by its value. All probabilities are "
        "measured; none is interpolated."
    )


def _title(item: ImageLike, place: int) -> str:
    if isinstance(item, (str, Path)):
        return Path(item).stem.replace("_", " ")
    return f"photo {place + 1}"


def _table(colors: Tensor) -> str:
    """Pack a row of colours, `(3, 1, N)`, for the script."""
    return b64encode(_bytes(colors[:, 0].T)).decode()


def _bytes(values: Tensor) -> bytes:
    return (values * 255).round().to(torch.uint8).numpy().tobytes()


def _packed(values: Tensor) -> str:
    steps = torch.frombuffer(bytearray(_bytes(values)), dtype=torch.uint8)
    steps[1:] -= steps[:-1].clone()  # modulo 256
    return b64encode(zlib.compress(steps.numpy().tobytes(), level=9)).decode()


def _webp(image: Tensor) -> str:
    """Pack a photo without loss, so that the page's network sees what the classifier saw."""
    from torchvision.transforms.v2.functional import to_pil_image

    buffer = BytesIO()
    to_pil_image(image.mul(255).round().to(torch.uint8)).save(buffer, "WEBP", lossless=True)
    return b64encode(buffer.getvalue()).decode()
