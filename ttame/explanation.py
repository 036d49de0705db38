"""The result of `Explainer.explain`: raw explanation maps and ways to look at them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ttame.classifiers.classes import short_name
from ttame.classifiers.outputs import Activation, probabilities
from ttame.errors import TTameError
from ttame.files import inside, replacing
from ttame.images import Box, Crop, image_size, open_image, to_raw
from ttame.masking import normalize_maps, upsample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ttame.images import ImageLike


@dataclass(frozen=True)
class Explanation:
    """Explanation maps of a batch of photos.

    Attributes:
        logits: The classifier's outputs, `(B, K)` float32.
        targets: Explained classes, `(B, T)` int64.
        maps: Raw maps, `(B, T, h, w)` float32: before the sigmoid, or in (0, 1) where there is a
            decoder; neither scaled nor clipped.
        images: The photos as the classifier saw them, raw, `(B, C, H, W)` in [0, 1].
        classes: K class names.
        crops: B parts of photos that `images` show.
        activation: What turns the outputs into probabilities.
    """

    logits: Tensor
    targets: Tensor
    maps: Tensor
    images: Tensor
    classes: tuple[str, ...]
    crops: tuple[Crop, ...] = ()
    activation: Activation = "softmax"

    def __len__(self) -> int:
        """Return the number of photos B."""
        return int(self.maps.shape[0])

    def __getitem__(self, index: int | slice) -> Explanation:
        """Return the explanation of one photo (B = 1) or several; iterating gives each in turn."""
        if not isinstance(index, slice):
            at = range(len(self))[index]
            index = slice(at, at + 1)
        return replace(
            self, logits=self.logits[index], targets=self.targets[index], maps=self.maps[index],
            images=self.images[index], crops=self.crops[index],
        )  # fmt: skip

    def __iter__(self) -> Iterator[Explanation]:
        """Go through the explanations of the photos, one by one."""
        return (self[index] for index in range(len(self)))

    @classmethod
    def join(cls, parts: Sequence[Explanation]) -> Explanation:
        """Join explanations by one explainer, of the same number of classes per photo, in order.

        Raises:
            TTameError: If the numbers of classes differ.
        """
        if len(parts) == 1:
            return parts[0]
        counts = [part.targets.shape[1] for part in parts]
        if len(set(counts)) > 1:
            shown = f"{', '.join(map(str, counts[:8]))}{', ...' if counts[8:] else ''}"
            raise TTameError(
                f"the photos have {shown} explained classes, and one explanation holds equally "
                "many per photo; take them one by one (explain_each), or use top_k"
            )
        return cls(
            logits=torch.cat([part.logits for part in parts]),
            targets=torch.cat([part.targets for part in parts]),
            maps=torch.cat([part.maps for part in parts]),
            images=torch.cat([part.images for part in parts]),
            classes=parts[0].classes,
            crops=tuple(crop for part in parts for crop in part.crops),
            activation=parts[0].activation,
        )

    @property
    def boxes(self) -> list[Box]:
        """Left, top, right and bottom edge of the explained part of each photo.

        They are in pixels of the upright photo at its own size, not rounded, and lie beyond it
        where the classifier's transform pads.
        """
        return [crop.box for crop in self.crops]

    def probabilities(self) -> Tensor:
        """Return the probabilities of the explained classes, `(B, T)` in [0, 1].

        Those of labels that do not exclude each other (`activation="sigmoid"`) need not sum to 1.

        Raises:
            TTameError: If the outputs are to be used as they are and are no probabilities.
        """
        return probabilities(self.logits, self.activation).gather(1, self.targets)

    def names(self) -> list[list[str]]:
        """Return the names of the explained classes, B lists of T; ImageNet's first synonyms."""
        return [[short_name(self.classes[at]) for at in row] for row in self.targets.tolist()]

    def normalized(self) -> Tensor:
        """Scale each map to [0, 1], `(B, T, h, w)`."""
        return normalize_maps(self.maps)

    def upsampled(self) -> Tensor:
        """Return the normalised maps at the size of the photos, `(B, T, H, W)` in [0, 1]."""
        return upsample(self.normalized(), self.images.shape[-2:])

    def overlay(self, opacity: float = 0.5, channels: Sequence[int] | None = None) -> Tensor:
        """Lay the coloured maps over the photos, `(B, T, 3, H, W)` in [0, 1].

        Args:
            opacity: Opacity of the colours, from 0 (photo only) to 1 (map only).
            channels: Three channels of the photo to show as red, green and blue, from 0, or one in
                grey; default: a photo of three channels as it is, of others the mean in grey.
        """
        from ttame.plotting import blend, render

        return blend(render(self.images, channels)[:, None], self.upsampled(), opacity)

    def on_photo(
        self,
        opacity: float = 0.5,
        photos: Sequence[ImageLike] | None = None,
        channels: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Lay the coloured maps over the whole photos at their own size.

        The part that the classifier did not see (outside `boxes`) is left as it is, without heat.
        Photos are read again from where they came; take one at a time, `explanation[i].on_photo()`,
        where many are large.

        Args:
            opacity: Opacity of the colours, from 0 (photo only) to 1 (map only).
            photos: The B photos, if they came from an iterator as anything but paths or bytes.
            channels: Channels of the photo to show, as for `overlay`.

        Returns:
            For each photo `(T, 3, H, W)` in [0, 1], H and W being its own.

        Raises:
            TTameError: If a photo is not at hand, cannot be read, or has another size than before.
        """
        if photos is not None and len(photos) != len(self):
            raise TTameError(
                f"got {len(photos)} photos for {len(self)} explanations; give each one"
            )
        return [
            self._whole(index, range(self.targets.shape[1]), opacity,
                        None if photos is None else photos[index], channels)
            for index in range(len(self))
        ]  # fmt: skip

    def _whole(
        self,
        index: int,
        classes: Sequence[int],
        opacity: float,
        photo: ImageLike | None = None,
        channels: Sequence[int] | None = None,
    ) -> Tensor:
        """Lay the maps of some classes over one whole photo."""
        from ttame.plotting import lay_over, render

        if index >= len(self.crops):
            raise TTameError("this explanation was not made from photos; it has no boxes")
        crop = self.crops[index]
        photo = crop.photo if photo is None else photo
        if photo is None:
            raise TTameError(
                f"photo {crop.position} came from an iterator and is not kept; pass it as "
                "on_photo(photos=[...]), or explain paths"
            )
        image = open_image(photo, crop.position, self.images.shape[1])
        if (size := image_size(image)) != crop.size:
            raise TTameError(
                f"photo {crop.position} has {size} pixels, but {crop.size} when it was "
                "explained; pass the same photo"
            )
        raw = render(to_raw(image), channels)
        return lay_over(raw, self.normalized()[index, list(classes)], crop.box, opacity)

    def plot(self, channels: Sequence[int] | None = None) -> Figure:
        """Plot one row per photo: the photo, then an overlay per class with its probability.

        `plt.show()` shows it where matplotlib.pyplot has been imported (`ttame.plotting.register`).

        Args:
            channels: Channels of the photo to show, as for `overlay`.

        Examples:
            >>> import ttame
            >>> from ttame.data import samples
            >>> explainer = ttame.load("tf_efficientnet_lite0")
            >>> explainer.explain(samples().paths[1], top_k=3).plot().savefig("castle.png")
        """
        from ttame.plotting import plot_grid, register, render

        rows = []
        for image, overlays, names, values in zip(
            render(self.images, channels),
            self.overlay(channels=channels),
            self.names(),
            self.probabilities().tolist(),
            strict=True,
        ):
            titles = [f"{name}\n{value:.1%}" for name, value in zip(names, values, strict=True)]
            rows.append([("photo\n", image), *zip(titles, overlays, strict=True)])
        what = "Photos, each followed by its explanation maps laid over it"
        return register(plot_grid(rows, what=what, bar=True))

    def save(
        self,
        folder: Path | str,
        stems: Sequence[str] | None = None,
        *,
        on_photo: bool = False,
        channels: Sequence[int] | None = None,
    ) -> list[Path]:
        """Write one overlay per photo and class to `folder`, as `STEM.CLASS.png`.

        Where several classes of the classifier have the same name, their index follows:
        `cat.crane-134.png`.

        Args:
            folder: Output folder; created if missing.
            stems: Base names of the B photos, all different, such as
                `ttame.files.unique_stems(paths)`; default: `photo_0`, ... by position among the
                photos that were explained together.
            on_photo: Write the whole photos at their own size (`on_photo`), instead of what the
                classifier saw.
            channels: Channels of the photo to show, as for `overlay`.

        Returns:
            The files, in order of photos and classes; one file for a class that is named twice.

        Raises:
            TTameError: If names are not one per photo and different, or one leads out of the folder
                or is no file name (nothing is written then), or a file cannot be written.
        """
        from torchvision.transforms.v2.functional import to_pil_image

        if stems is None:
            positions = [crop.position for crop in self.crops] or range(len(self))
            stems = [f"photo_{position}" for position in positions]
        _check_stems(stems, len(self))
        slugs = _slugs(self.classes)
        # All names are checked before anything is written.
        paths = [[inside(folder, stem, f".{slugs[target]}.png") for target in targets]
                 for stem, targets in zip(stems, self.targets.tolist(), strict=True)]  # fmt: skip
        for index, targets in enumerate(self.targets.tolist()):
            small = None if on_photo else self[index].overlay(channels=channels)[0]
            for place, target in enumerate(targets):
                if target not in targets[:place]:
                    if small is None:
                        image = self._whole(index, [place], 0.5, channels=channels)[0]
                    else:
                        image = small[place]
                    with replacing(paths[index][place]) as temporary:
                        to_pil_image(image).save(temporary, format="PNG")
        return [path for row in paths for path in row]


def _check_stems(stems: Sequence[str], photos: int) -> None:
    """Check that each photo has a name of its own, on any disk."""
    if len(stems) != photos:
        raise TTameError(f"got {len(stems)} names for {photos} photos; give one each")
    name, times = Counter(stem.casefold() for stem in stems).most_common(1)[0]
    if times > 1:
        raise TTameError(
            f"{times} photos are to be saved as {name!r}, and would overwrite each other; give "
            "each its own name, as ttame.files.unique_stems(paths) does"
        )


@lru_cache(maxsize=8)
def _slugs(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Make file names of class names; those that would be the same end in `-` and the index."""
    slugs = [
        "".join(c if c.isalnum() else "_" for c in short_name(name).lower()) for name in classes
    ]
    shared = Counter(slugs)
    return tuple(f"{slug}-{i}" if shared[slug] > 1 else slug for i, slug in enumerate(slugs))
