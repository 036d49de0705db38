"""An interactive page of explanations: readers choose photo, class, method and retained pixels.

Everything is computed beforehand. The page holds the photos, the maps and the measured
probabilities; its script (`exploration.html`, beside this module) only draws them, so that the page
works as a file, without a server or a network.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ttame.classifiers.classes import ClassLike
from ttame.classifiers.specs import BackboneSpec, masked_probabilities
from ttame.classifiers.weights import input_like
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
_TEMPLATE = Path(__file__).with_suffix(".html")
_PLACE = "{{ data }}"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ max-width: 56rem; margin: 1.5rem auto; padding: 0 1rem;
  background: light-dark(#ffffff, #14181e); font: 1rem/1.5 system-ui, sans-serif; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


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
    """

    explanation: Explanation
    names: tuple[str, ...]
    maps: Mapping[str, Tensor]
    probabilities: Mapping[str, Tensor]
    shares: tuple[int, ...]
    spec: BackboneSpec

    def __repr__(self) -> str:
        photos, classes = self.explanation.targets.shape
        return f"Exploration({photos} photos, {classes} classes each, {', '.join(self.maps)})"

    def data(self) -> dict[str, object]:
        """Return what the page's script reads: JSON types, with photos and maps in base64.

        Maps are scaled to their own range and stored at their own resolution in 256 steps, as
        zlib-compressed differences between neighbours.
        """
        height, width = self.explanation.images.shape[-2:]
        table = colorize((torch.arange(256) / 256)[None])[:, 0].T
        mean = torch.tensor(self.spec.mean).view(-1, 1, 1)
        fill = render(torch.zeros_like(mean) if self.spec.space == "raw" else mean).flatten()
        return {
            "classifier": self.spec.name,
            "size": [height, width],
            "shares": self.shares,
            # Counted here as in `masking.keep_top`: JavaScript rounds halves differently.
            "kept": [round(share / 100 * height * width) for share in self.shares],
            "fill": [255 * value for value in fill.tolist()],  # colour of masked pixels
            "colors": b64encode(_bytes(table)).decode(),
            "photos": [
                {"name": name, "jpeg": _jpeg(image), "classes": labels, "whole": whole}
                for name, image, labels, whole in zip(
                    self.names,
                    render(self.explanation.images),
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
        path = Path(path)
        if path.suffix not in (".html", ".htm"):
            raise TTameError(f"an interactive page's file ends in .html, got {path.name!r}")
        page = _PAGE.format(title=escape(title), body=self._repr_html_())
        with replacing(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        # No "<" in the data: neither a tag nor a comment can begin or end inside the script.
        text = json.dumps(self.data(), separators=(",", ":")).replace("<", "\\u003c")
        return _TEMPLATE.read_text(encoding="utf-8").replace(_PLACE, text)


def explore(
    explainer: Explainer,
    photos: ImageLike | Sequence[ImageLike],
    *,
    classes: int | Sequence[ClassLike] = 5,
    methods: Sequence[str] | None = None,
    shares: Sequence[int] = SHARES,
    names: Sequence[str] | None = None,
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
    bound = {
        name: build(name, explainer)
        for name in ([methods] if isinstance(methods, str) else methods)
    }
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
    )


def _title(item: ImageLike, place: int) -> str:
    if isinstance(item, (str, Path)):
        return Path(item).stem.replace("_", " ")
    return f"photo {place + 1}"


def _bytes(values: Tensor) -> bytes:
    return (values * 255).round().to(torch.uint8).numpy().tobytes()


def _packed(values: Tensor) -> str:
    steps = torch.frombuffer(bytearray(_bytes(values)), dtype=torch.uint8)
    steps[1:] -= steps[:-1].clone()  # modulo 256
    return b64encode(zlib.compress(steps.numpy().tobytes(), level=9)).decode()


def _jpeg(image: Tensor) -> str:
    from torchvision.transforms.v2.functional import to_pil_image

    buffer = BytesIO()
    to_pil_image(image).save(buffer, format="JPEG", quality=90)
    return b64encode(buffer.getvalue()).decode()
