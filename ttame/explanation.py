"""The result of `Explainer.explain`: raw explanation maps and ways to look at them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ttame.files import replacing
from ttame.masking import normalize_maps, upsample

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Explanation:
    """Explanation maps of a batch of photos.

    Attributes:
        logits: `(B, K)` float32.
        targets: Explained classes, `(B, T)` int64.
        maps: Raw maps before the sigmoid, `(B, T, h, w)`: neither scaled nor clipped.
        images: The photos as the classifier saw them, raw, `(B, 3, H, W)` in [0, 1].
        classes: K class names.
    """

    logits: Tensor
    targets: Tensor
    maps: Tensor
    images: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of photos B."""
        return int(self.maps.shape[0])

    def probabilities(self) -> Tensor:
        """Return the softmax probabilities of the explained classes, `(B, T)` in [0, 1]."""
        return self.logits.softmax(dim=1).gather(1, self.targets)

    def names(self) -> list[list[str]]:
        """Return the names of the explained classes, B lists of T; the first of any synonyms."""
        return [
            [self.classes[index].split(",")[0] for index in row] for row in self.targets.tolist()
        ]

    def normalized(self) -> Tensor:
        """Scale each map to [0, 1], `(B, T, h, w)`."""
        return normalize_maps(self.maps)

    def upsampled(self) -> Tensor:
        """Return the normalised maps at the size of the photos, `(B, T, H, W)` in [0, 1]."""
        return upsample(self.normalized(), self.images.shape[-2:])

    def overlay(self, opacity: float = 0.5) -> Tensor:
        """Lay the coloured maps over the photos, `(B, T, 3, H, W)` in [0, 1].

        Args:
            opacity: Opacity of the colours, from 0 (photo only) to 1 (map only).
        """
        from ttame.plotting import blend

        return blend(self.images[:, None], self.upsampled(), opacity)

    def plot(self) -> Figure:
        """Plot one row per photo: the photo, then an overlay per class with its probability."""
        from ttame.plotting import plot_grid

        rows = []
        for image, overlays, names, values in zip(
            self.images, self.overlay(), self.names(), self.probabilities().tolist(), strict=True
        ):
            titles = [f"{name}\n{value:.1%}" for name, value in zip(names, values, strict=True)]
            rows.append([("photo\n", image), *zip(titles, overlays, strict=True)])
        return plot_grid(rows, what="Photos, each followed by its explanation maps laid over it")

    def save(self, folder: Path | str, stems: list[str] | None = None) -> list[Path]:
        """Write one overlay per photo and class to `folder`, as `STEM.CLASS.png`.

        Args:
            folder: Output folder; created if missing.
            stems: Base names of the B photos; default `photo_0`, ...

        Returns:
            The files written.

        Raises:
            TTameError: If a file cannot be written.
        """
        from torchvision.transforms.v2.functional import to_pil_image

        written = []
        stems = stems or [f"photo_{index}" for index in range(len(self))]
        for stem, row, names in zip(stems, self.overlay(), self.names(), strict=True):
            for image, name in zip(row, names, strict=True):
                slug = "".join(c if c.isalnum() else "_" for c in name.lower())
                path = Path(folder) / f"{stem}.{slug}.png"
                with replacing(path) as temporary:
                    to_pil_image(image).save(temporary, format="PNG")
                written.append(path)
        return written
