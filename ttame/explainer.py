"""The `Explainer`: a frozen classifier with an attention mechanism that explains it in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor, nn

from ttame.attention import AttentionMechanism, branch_change
from ttame.classifiers.auxiliary import Auxiliary, extractor
from ttame.classifiers.classes import (
    Targets,
    check_bound,
    check_count,
    count_above,
    index_targets,
    per_image,
    resolve_targets,
)
from ttame.classifiers.outputs import ANSWERS, probabilities
from ttame.classifiers.passes import own_precision
from ttame.classifiers.registry import Backbone
from ttame.classifiers.specs import BackboneSpec
from ttame.classifiers.weights import input_like
from ttame.errors import TTameError
from ttame.explanation import Explanation
from ttame.images import Crop, ImageLike, image_batches, image_source, normalize
from ttame.refinement import check_steps, refine_maps
from ttame.saving import read, write

if TYPE_CHECKING:
    from ttame.export.agreement import Agreement


class Explainer(nn.Module):
    """A frozen classifier with an attention mechanism on its feature maps.

    The classifier always stays in `eval()` and without gradients.

    Args:
        backbone: The classifier and its facts.
        mechanism: Attention mechanism built for the channels of `layers`.
        layers: Dotted module names; default: those of the backbone's spec.
        record: How the mechanism was trained; saved with it.
        auxiliary: A frozen network whose layers give the feature maps instead of the classifier's
            (`ttame.classifiers.auxiliary`).
    """

    def __init__(
        self,
        backbone: Backbone,
        mechanism: AttentionMechanism,
        layers: Sequence[str] | None = None,
        record: Mapping[str, object] | None = None,
        auxiliary: Auxiliary | None = None,
    ) -> None:
        super().__init__()
        self.spec = backbone.spec
        self.classifier = backbone.model.eval().requires_grad_(False)
        self.mechanism = mechanism
        self.layers = tuple(layers or backbone.spec.layers)
        self.record = dict(record or {})
        self.auxiliary = auxiliary
        self.extract = extractor(
            self.classifier, self.layers, mechanism.config.tokens, self.auxiliary
        )

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the mechanism; frozen networks remain in `eval()`."""
        super().train(mode)
        self.classifier.eval()
        if self.auxiliary is not None:
            self.auxiliary.eval()
        return self

    def replace(
        self,
        *,
        classifier: nn.Module | None = None,
        mechanism: AttentionMechanism | None = None,
        layers: Sequence[str] | None = None,
        spec: BackboneSpec | None = None,
        record: Mapping[str, object] | None = None,
        auxiliary: Auxiliary | None = None,
    ) -> Explainer:
        """Return an explainer in the same mode with some parts exchanged and the rest shared.

        Args:
            classifier: Another classifier with the same facts; its parameters are frozen.
            mechanism: Another mechanism, built for the channels of the layers.
            layers: Other dotted module names.
            spec: Other facts of the classifier.
            record: Another training record.
            auxiliary: Another auxiliary network.
        """
        changed = Explainer(
            Backbone(spec or self.spec, self.classifier if classifier is None else classifier),
            self.mechanism if mechanism is None else mechanism,
            self.layers if layers is None else layers,
            self.record if record is None else record,
            self.auxiliary if auxiliary is None else auxiliary,
        )
        changed.training = self.training  # the mechanism's own mode is not touched
        return changed

    def features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the classifier once, in its dtype and on its device, and any auxiliary network.

        Args:
            images: Normalised images, `(B, C, H, W)`, of any floating-point dtype.

        Returns:
            Logits `(B, K)`, and one map `(B, C_l, h_l, w_l)` per layer, of the mechanism's dtype
            unless autocast chooses another.
        """
        like = input_like(self.classifier)
        logits, maps = self.extract(images.to(like))
        if not torch.is_autocast_enabled(like.device.type):
            dtype = next(self.mechanism.parameters()).dtype
            maps = [found.to(dtype) for found in maps]
        return logits, maps

    def forward(
        self, images: Tensor, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Explain a normalised batch, differentiably with respect to the mechanism.

        Args:
            images: Normalised images, `(B, C, H, W)`, of any floating-point dtype.
            targets: Target classes, `(B, T)` int64; `None` for the predicted class.

        Returns:
            Logits `(B, K)`, targets `(B, T)` and the mechanism's raw maps, `(B, T, h, w)`.
        """
        with torch.no_grad():
            logits, maps = self.features(images)
        if targets is None:
            targets = logits.argmax(dim=1, keepdim=True)
        return logits, targets, self.mechanism(maps, targets)

    def explain(
        self,
        images: ImageLike | Iterable[ImageLike],
        targets: Targets = None,
        *,
        top_k: int | None = None,
        above: float | None = None,
        refine: int = 0,
        batch_size: int = 32,
        skip_bad: bool = False,
        progress: bool = True,
    ) -> Explanation:
        """Explain any classes of photos with one forward pass of the classifier per batch.

        With `refine`, each map is improved by gradient steps of its own, at one more forward and
        one backward pass per step and target class (`ttame.refinement`).

        The classifier's activations are held for one batch at a time. The result grows with the
        number of photos, about 0.6 MB each at 224 px; `explain_each` holds one batch altogether.
        It does not depend on what surrounds the call: calls may run in several threads at once,
        and autocast, `torch.no_grad` and the default dtype and device make no difference.

        Args:
            images: A path, the bytes of an image file, a file open in binary mode, Pillow image,
                array or raw tensor, of any size; a folder or a pattern such as `"photos/*.jpg"`;
                or a list, generator or other iterable of images (`ttame.images.image_source`,
                `open_image`). Preprocessed as the classifier expects.
            targets: `None` for the predicted class, one class index or name for all images, or
                `(B,)` or `(B, T)` of them.
            top_k: Explain the k most probable classes instead of `targets`.
            above: Explain all classes whose probability is above this instead of `targets`, such
                as the labels that a multi-label classifier finds (0.5); equally many per photo,
                or one photo at a time (`explain_each`).
            refine: Gradient steps per map; 0 for none.
            batch_size: Images per pass of the classifier.
            skip_bad: Skip images that cannot be read, with a warning each;
                `Explanation.crops` has the positions of the others.
            progress: Show a progress bar if there is more than one batch, in terminals and
                notebooks.

        Raises:
            TTameError: If an image cannot be read, a class does not exist, the explainer is in
                training mode, `refine` or `batch_size` is out of range or finds no gradients, or
                the classifier or the mechanism returns NaN.

        Examples:
            >>> import ttame
            >>> from ttame.data import samples
            >>> explainer = ttame.load("tf_efficientnet_lite0")
            >>> astronaut, castle = samples().paths[:2]
            >>> explanation = explainer.explain([astronaut, castle], top_k=2)
            >>> explanation.names()
            [['football helmet', 'bobsled'], ['castle', 'palace']]
            >>> explanation.maps.shape  # photos, classes, height, width
            torch.Size([2, 2, 7, 7])
            >>> asked = explainer.explain(castle, "palace")
        """
        parts = self._batches(
            images, targets, top_k=top_k, above=above, refine=refine, batch_size=batch_size,
            skip_bad=skip_bad, progress=progress,
        )  # fmt: skip
        return Explanation.join(list(parts))

    def explain_each(
        self,
        images: ImageLike | Iterable[ImageLike],
        targets: Targets = None,
        *,
        top_k: int | None = None,
        above: float | None = None,
        refine: int = 0,
        batch_size: int = 32,
        skip_bad: bool = False,
        progress: bool = True,
    ) -> Iterator[Explanation]:
        """Explain any number of photos in bounded memory, photo by photo, as they are asked for.

        Args:
            images: As for `explain`; an iterator is read one batch ahead of what is yielded.
            targets: As for `explain`.
            top_k: As for `explain`.
            above: As for `explain`; photos may have different numbers of classes.
            refine: As for `explain`.
            batch_size: As for `explain`.
            skip_bad: As for `explain`.
            progress: As for `explain`.

        Returns:
            One `Explanation` (B = 1) per photo, in order.

        Raises:
            TTameError: As for `explain`; for images when their turn comes, the rest at once.
        """
        parts = self._batches(
            images, targets, top_k=top_k, above=above, refine=refine, batch_size=batch_size,
            skip_bad=skip_bad, progress=progress,
        )  # fmt: skip
        return (one for part in parts for one in part)

    def _batches(
        self,
        images: ImageLike | Iterable[ImageLike],
        targets: Targets,
        *,
        top_k: int | None,
        above: float | None,
        refine: int,
        batch_size: int,
        skip_bad: bool,
        progress: bool,
    ) -> Iterator[Explanation]:
        """Check the arguments; then explain batch by batch, as they are asked for."""
        if self.mechanism.training:
            raise TTameError("the explainer is in training mode; call explainer.eval() first")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise TTameError(f"batch_size must be at least 1, got {batch_size!r}")
        if above is not None and (targets is not None or top_k is not None):
            raise TTameError(f"above={above} excludes targets and top_k; give one of the three")
        check_bound(above)
        steps, wanted, source = (
            check_steps(refine), index_targets(targets, self.classes), image_source(images),
        )  # fmt: skip
        if source.count is not None:
            check_count(wanted, source.count)
        batches = image_batches(source, self.spec, batch_size, skip_bad=skip_bad, progress=progress)

        def explained() -> Iterator[Explanation]:
            end = 0
            while True:
                with torch.device("cpu"):  # whatever the default is
                    batch = next(batches, None)
                if batch is None:
                    break
                raw, crops = batch
                positions = [crop.position for crop in crops]
                end = positions[-1] + 1
                chosen = per_image(wanted, positions)
                yield from self._explain(raw, crops, chosen, top_k, above, steps)
            if source.count is None and not skip_bad:
                check_count(wanted, end)

        return explained()

    @torch.inference_mode()
    def _explain(
        self,
        raw: Tensor,
        crops: tuple[Crop, ...],
        targets: Targets,
        top_k: int | None,
        above: float | None,
        steps: int,
    ) -> list[Explanation]:
        """Explain one batch of raw images `(B, C, H, W)`; with `above`, each by itself."""
        prepared = normalize(raw, self.spec).to(input_like(self.classifier))
        with own_precision(prepared.device):
            logits, maps = self.features(prepared)
            _check_numbers(logits, f"the logits of {self.spec.name}", "its weights")
            counts = []
            if above is not None:
                positions = [crop.position for crop in crops]
                found = probabilities(logits, self.spec.activation)
                counts = count_above(found, above, self.classes, positions)
                top_k = max(counts)
            wanted = resolve_targets(targets, logits, self.classes, top_k)
            found = self.mechanism(maps, wanted)
            _check_numbers(found, "the explanation maps", "the mechanism's weights")
            if steps:
                found = refine_maps(
                    self.classifier, self.spec, prepared, wanted, found, steps=steps
                )
        whole = Explanation(
            logits=logits.float().cpu(),
            targets=wanted.cpu(),
            maps=found.float().cpu(),
            images=raw,
            classes=self.classes,
            crops=crops,
            activation=self.spec.activation,
        )
        if above is None:
            return [whole]
        return [
            replace(one, targets=one.targets[:, :count], maps=one.maps[:, :count])
            for one, count in zip(whole, counts, strict=True)
        ]

    @torch.inference_mode()
    def layer_statistics(self, images: Tensor) -> list[dict[str, str | float]]:
        """Measure each layer's part in the maps of the predicted classes, and its branch.

        Args:
            images: Normalised photos, `(B, C, H, W)`.

        Returns:
            One entry per layer, means over the photos. A layer's part is what the map loses when
            the layer is not read: `share` is the standard deviation of the part over that of the
            map (shares need not sum to 1: parts may agree or cancel), `correlation` that of the
            part with the map, in [-1, 1]; `moved` and `gain` describe its branch
            (`ttame.attention.branch_change`).

        Raises:
            TTameError: If the explainer is in training mode.
        """
        if self.mechanism.training:
            raise TTameError("the explainer is in training mode; call explainer.eval() first")
        with own_precision(images.device):
            return self._layer_statistics(images)

    def _layer_statistics(self, images: Tensor) -> list[dict[str, str | float]]:
        logits, maps = self.features(images)
        targets = logits.argmax(dim=1, keepdim=True)
        whole = self.mechanism(maps, targets).flatten(1)
        length = _centre(whole).norm(dim=1).clamp_min(1e-12)
        rows: list[dict[str, str | float]] = []
        for index, (name, branch) in enumerate(
            zip(self.layers, self.mechanism.branches, strict=True)
        ):
            others = [other for other in range(len(maps)) if other != index]
            part = _centre(whole - self.mechanism.keep_layers(others)(maps, targets).flatten(1))
            own = part.norm(dim=1)
            correlation = (part * _centre(whole)).sum(1) / (own * length).clamp_min(1e-12)
            moved, gain = branch_change(branch, maps[index])
            rows.append(
                {"layer": name, "share": float((own / length).mean()),
                 "correlation": float(correlation.mean()), "moved": moved, "gain": gain}
            )  # fmt: skip
        return rows

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in index order; no and yes, or numbers, if the spec's differ in count."""
        names, count = self.spec.classes, self.mechanism.classes
        if len(names) == count:
            return names
        return ANSWERS if self.spec.binary else tuple(f"class {i}" for i in range(count))

    def save(self, path: Path | str, dtype: torch.dtype = torch.float32) -> Path:
        """Write the mechanism and a JSON header atomically to one `safetensors` file.

        Of the weights of frozen networks only the fingerprints are saved.

        Args:
            path: Output file, `.safetensors`.
            dtype: Storage type; float16 halves the file, with a relative error of about 1e-3.

        Raises:
            TTameError: If the file cannot be written.

        Examples:
            >>> import ttame
            >>> path = ttame.load("drawn_cnn").save("mine.safetensors")
            >>> ttame.load(path).spec.name
            'drawn_cnn'
        """
        return write(self, Path(path), dtype)

    def export(
        self,
        path: Path | str,
        *,
        storage: Literal["float32", "float16", "int8"] = "float32",
        preprocess: bool = False,
        batch: int | None = None,
        any_size: bool = False,
        licence: str = "not stated",
        photos: ImageLike | Iterable[ImageLike] | None = None,
    ) -> Agreement:
        """Write classifier and mechanism to one file that runs without this library.

        An ONNX file has the inputs `images`, normalised `(B, C, H, W)` float32, and `targets`,
        `(B,)` int64 with -1 for the predicted class; and the outputs `logits`, `(B, K)`,
        `explained`, the classes of the maps, `(B,)`, and `maps`, raw `(B, 1, h, w)`. Its metadata
        hold what the network expects of photos, its classes and digests, as JSON under the key
        `ttame`. `ttame.Exported` runs it. A program of `torch.export` has the same inputs, outputs
        and metadata (in `extra_files`).

        The file is run on photos and held against PyTorch before it takes its place.

        Args:
            path: Output file, `.onnx`, or `.pt2` for a program of `torch.export`.
            storage: How the weights are stored: `"float16"` and `"int8"` make the file half and a
                quarter as large; the network computes in float32 all the same.
            preprocess: Resize, crop and normalise in the file: instead of `images` it takes
                `pixels`, upright photos of one size, `(B, height, width, C)` uint8.
            batch: Number of images per call, for networks that fix it; `None` for any number.
            any_size: Leave height and width of the images open, where the network takes any; the
                file is then compared on photos in two sizes.
            licence: Licence of the classifier's weights, noted in the file.
            photos: Photos to compare on, as for `explain`; default: the shipped samples.

        Returns:
            How far the file is from PyTorch.

        Raises:
            TTameError: If an operation cannot be exported, the network fixes the size of its images
                and `any_size` is asked for, a photo cannot be read, the file cannot
                be written, or it disagrees with PyTorch: by more than 1e-3 of the largest value,
                with float16 weights 1e-2, with int8 0.2. Nothing is written then.

        Examples:
            >>> import ttame
            >>> from ttame.data import samples
            >>> agreement = ttame.load("drawn_cnn").export("mine.onnx")
            >>> agreement.same  # share of photos with the same predicted class
            1.0
            >>> ttame.Exported("mine.onnx").explain(samples().paths[0]).map.shape
            (24, 24)
        """
        from ttame.export.write import export

        return export(
            self, path, storage=storage, preprocess=preprocess, batch=batch,
            any_size=any_size, licence=licence, photos=photos,
        )  # fmt: skip

    def demo(
        self,
        path: Path | str,
        photos: ImageLike | Sequence[ImageLike] | None = None,
        *,
        title: str | None = None,
    ) -> Path:
        """Write a page in which this explainer runs, one file to open, to host or to send.

        Its readers drop photos there, pick any class, and see maps, masked photos and what the
        classifier makes of them, computed by their own browser. `ttame.demo` has more options.

        Args:
            path: Output file, `.html` or `.htm`.
            photos: Photos that the page begins with; default: six of the shipped samples.
            title: Title of the page; default: the classifier's name.

        Returns:
            Path of the page.

        Raises:
            TTameError: As `ttame.demo`.
        """
        from ttame import demo  # public, and above this module

        return demo(self, path, photos, title=title)

    @classmethod
    def load(
        cls, path: Path | str, model: nn.Module | None = None, weights: Path | str | None = None
    ) -> Explainer:
        """Read a saved explainer and check that it belongs to the classifier.

        Args:
            path: The `safetensors` file.
            model: The classifier, if it is not registered.
            weights: A local state dict or checkpoint of a classifier that is known by name.

        Raises:
            TTameError: If the file is damaged or of another format or version, or was made for
                another classifier or other weights, layers or classes, of the classifier or of
                its auxiliary network.
        """
        return cls(*read(Path(path), model, weights)).eval()


def _check_numbers(values: Tensor, what: str, cause: str) -> None:
    """Refuse NaN, of which no class or place could be told."""
    if bool(values.isnan().any()):
        raise TTameError(
            f"{what} are NaN for this photo in {values.dtype}; {cause} are damaged, or its values "
            "leave the range of the dtype: load intact weights, or use float32 (model.float())"
        )


def _centre(values: Tensor) -> Tensor:
    """Subtract each row's mean from `(B, N)`."""
    return values - values.mean(dim=1, keepdim=True)
