"""Feature maps: the logits of a classifier and the maps of chosen layers, in one pass."""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from ttame.errors import TTameError, suggest

Tokens = Literal["drop", "cls"]

# Rounding changes the aspect ratio of small maps by up to two; a larger misfit is no image map.
_MISFIT = math.log(2) + 1e-9
_MOST_PREFIX = 17  # a class token and sixteen registers
# Parameters that stand before the patch tokens in timm's, torchvision's and other transformers.
_PREFIX = re.compile(
    r"(cls|class|dist|distillation|reg|register|storage)_?tokens?|registers|class_embedding"
)
# Held while hooks come and go, never during a pass: torch numbers hooks without a lock, and a copy
# of a module reads the hooks that are there.
HOOKS = threading.RLock()


class Hook:
    """Call a function in the thread that made the hook, until the hook is silenced.

    A classifier may be explained by many threads at once, and all of them run its modules, so a
    hook must tell its own passes from those of others.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function: Callable[..., Any] | None = function
        self.thread = threading.get_ident()

    def __call__(self, *args: Any) -> Any:
        """Call the function in its own thread; elsewhere, return `None`."""
        function = self.function
        if function is None or threading.get_ident() != self.thread:
            return None  # torch goes on as if there were no hook
        return function(*args)

    def __deepcopy__(self, memo: object) -> Hook:
        return self  # silenced with the original


@contextmanager
def hooked(
    module: nn.Module, function: Callable[..., Any], before: bool = False, kwargs: bool = False
) -> Iterator[None]:
    """Hook a module during the block, for passes of this thread only.

    Blocks may be nested, and overlap with those of other threads on the same module. The hook is
    removed at the end, even after an exception.

    Args:
        module: The module to hook.
        function: As torch's forward hooks, `(module, args, output)`; what it returns other than
            `None` replaces the output.
        before: Call `function(module, args)` before the module runs instead.
        kwargs: Pass the module's keyword arguments as well, after `args`.
    """
    hook = Hook(function)
    register = module.register_forward_pre_hook if before else module.register_forward_hook
    with HOOKS:
        handle = register(hook, with_kwargs=kwargs)
    try:
        yield
    finally:
        hook.function = None
        with HOOKS:
            handle.remove()


@contextmanager
def observe(
    model: nn.Module, layers: Sequence[str], see: Callable[[str, object], None]
) -> Iterator[None]:
    """Call `see(name, output)` whenever one of `layers` runs inside the block, in this thread.

    Passes of other threads are not seen. The hooks are removed at the end, even after an exception.

    Raises:
        TTameError: If a layer does not exist (similar names are suggested) or is given twice.
    """
    modules = {name: _submodule(model, name) for name in layers}
    if len(modules) != len(layers):
        twice = next(name for name in layers if list(layers).count(name) > 1)
        raise TTameError(f"layer {twice!r} is given twice; name every layer once")

    def hook(name: str, _module: nn.Module, _args: object, output: object) -> None:
        see(name, output)

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(hooked(module, partial(hook, name)))
        yield


@contextmanager
def capture(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, object]]:
    """Collect the outputs of `layers`, by name, during the block.

    Raises:
        TTameError: As for `observe`.
    """
    outputs: dict[str, object] = {}

    def keep(name: str, output: object) -> None:
        # Copied, because an in-place ReLU after the layer would overwrite its output.
        outputs[name] = output.clone() if isinstance(output, Tensor) else output

    with observe(model, layers, keep):
        yield outputs


@contextmanager
def masked_features(model: nn.Module, layer: str, masks: Tensor) -> Iterator[None]:
    """Multiply a layer's feature map by masks during the block, in this thread.

    Args:
        model: The classifier.
        layer: Dotted module name.
        masks: `(B, 1, h, w)`, of the size of the feature map.

    Raises:
        TTameError: If the layer's output is not `(B, C, h, w)` of that size.
    """

    def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        if output.ndim != 4 or output.shape[-2:] != masks.shape[-2:]:
            raise TTameError(
                f"the output of layer {layer!r}, {tuple(output.shape)}, cannot be multiplied by "
                f"masks {tuple(masks.shape)}; choose one layer with a map (B, C, h, w)"
            )
        return output * masks

    with hooked(_submodule(model, layer), hook):
        yield


@dataclass(frozen=True)
class TokenLayout:
    """What a transformer shows about the order of its tokens, through any depth of wrapping.

    Attributes:
        prefix: Number of tokens before the patch tokens; `None` if unknown.
        convolutions: Kernel, stride and padding, each in both directions, of the convolutions
            that shrink their input, in order; the patch embedding is the first of them, or the
            last of a stem.
    """

    prefix: int | None = None
    convolutions: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...] = ()

    @classmethod
    def of(cls, model: nn.Module) -> TokenLayout:
        """Read the layout off a model."""
        found = [
            (module.kernel_size, module.stride, module.padding)
            for module in model.modules()
            if isinstance(module, nn.Conv2d)
            and max(module.stride) > 1
            and not isinstance(module.padding, str)
        ]
        return cls(prefix_tokens(model), tuple(found))

    def grids(self, size: Sequence[int]) -> list[tuple[int, int]]:
        """List the heights and widths after each convolution, for an image of this size."""
        grids, sides = [], tuple(size)
        for kernels, strides, paddings in self.convolutions:
            sides = tuple(
                (side + 2 * padding - kernel) // stride + 1
                for side, kernel, stride, padding in zip(
                    sides, kernels, strides, paddings, strict=True
                )
            )
            if min(sides) < 1:
                break
            grids.append((sides[0], sides[1]))
        return grids


def prefix_tokens(model: nn.Module) -> int | None:
    """Return how many tokens precede a transformer's patch tokens; `None` if unknown.

    The model, or a module inside it, says it (timm's `num_prefix_tokens`), or holds the tokens as
    parameters: class, distillation and register tokens by their usual names.
    """
    for module in model.modules():
        count = getattr(module, "num_prefix_tokens", None)  # timm
        if isinstance(count, int):
            return count
    for module in model.modules():
        held = dict(module.named_parameters(recurse=False))
        counts = [value.shape[-2] if value.ndim > 1 else 1
                  for name, value in held.items() if _PREFIX.fullmatch(name)]  # fmt: skip
        if counts:
            return sum(counts)
    return None


def token_grid(
    tokens: int, size: Sequence[int], layout: TokenLayout | int | None
) -> tuple[int, int, int]:
    """Find (prefix, h, w) with prefix + h·w = tokens and a grid in the shape of the image.

    The grid is that of the patch embedding where the number of tokens agrees. Otherwise it is one
    whose cells are square, of a whole number of pixels, or nearly so.

    Args:
        tokens: Length of the token sequence.
        size: Height and width of the input image, in pixels.
        layout: What is known of the order of the tokens, or of it the number of leading tokens
            that are not patches; if that is `None`, 0 to 8 are tried.

    Raises:
        TTameError: If no grid fits.
    """
    if not isinstance(layout, TokenLayout):
        layout = TokenLayout(layout)
    height, width = size
    prefix = layout.prefix
    # Even if the count is known, a layer may lie before the prefix tokens are added (CaiT).
    befores = range(9) if prefix is None else (prefix, 0)
    embedded = {tokens - h * w: (tokens - h * w, h, w) for h, w in layout.grids(size)}
    for before in (*befores, *range(_MOST_PREFIX + 1)):
        if before in embedded:
            return embedded[before]
    possible = []
    for before in befores:
        patches = tokens - before
        if patches < 1:
            continue
        # Patch counts of non-square inputs are rounded; accept the closest aspect ratio.
        rows = math.isqrt(round(patches * height / width)) or 1
        for h in (rows, rows + 1):
            if patches % h == 0 and abs(math.log((h * width) / (patches / h * height))) < 0.1:
                possible.append((before, h, patches // h))
    whole = [(before, h, w) for before, h, w in possible
             if height % h == 0 == width % w and height // h == width // w]  # fmt: skip
    for found in (*whole, *possible):
        return found
    raise TTameError(
        f"{tokens} tokens with {'an unknown number of' if prefix is None else prefix} prefix "
        f"tokens form no grid of the shape of a {height}x{width} image; choose a layer whose "
        "tokens are the image's patches"
    )


def to_map(
    output: object,
    name: str,
    image: Tensor,
    layout: TokenLayout | int | None = None,
    tokens: Tokens = "drop",
) -> Tensor:
    """Convert a layer's output to a feature map.

    Args:
        output: Output of the layer: `(B, C, h, w)`, `(B, h, w, C)` or tokens `(B, N, C)`.
        name: Name of the layer, for error messages.
        image: Input of the classifier, `(B, C, H, W)`.
        layout: What is known of the order of tokens, as for `token_grid`.
        tokens: `"drop"` the prefix tokens, or multiply the patch tokens by the first one,
            `"cls"` (T-TAME's alternative).

    Returns:
        `(B, C, h, w)`.

    Raises:
        TTameError: If the output is not a tensor, has another batch size or no spatial shape.
    """
    if not isinstance(output, Tensor):
        raise TTameError(
            f"layer {name!r} returns a {type(output).__name__}, not a tensor; choose a layer "
            f"inside it, such as its last norm (`ttame layers MODEL --all` lists those of {name}.*)"
        )
    batch, (height, width) = image.shape[0], image.shape[-2:]
    if output.ndim not in (3, 4) or output.shape[0] != batch:
        raise TTameError(
            f"layer {name!r} returns {tuple(output.shape)} for {batch} images, which is neither a "
            "feature map (B, C, h, w) nor a token sequence (B, N, C); choose another layer"
        )
    if output.ndim == 4:
        _, a, b, c = output.shape
        last = abs(math.log((a * width) / (b * height)))  # misfit if channels come last
        first = abs(math.log((b * width) / (c * height)))
        if min(first, last) > _MISFIT:
            raise TTameError(
                f"layer {name!r} returns {tuple(output.shape)}, in which no two axes have the "
                f"shape of a {height}x{width} image; choose another layer"
            )
        return output if first <= last + 1e-9 else output.permute(0, 3, 1, 2)
    before, h, w = token_grid(output.shape[1], (height, width), layout)
    patches = output[:, before:]  # (B, h·w, C)
    if tokens == "cls":
        if before == 0:
            raise TTameError(f"tokens='cls' needs a class token, layer {name!r} has none")
        patches = patches * output[:, :1]
    return patches.transpose(1, 2).reshape(batch, -1, h, w)  # (B, C, h, w)


def _submodule(model: nn.Module, name: str) -> nn.Module:
    """Look up a layer by path; listing all modules could cost as much as a forward pass."""
    try:
        if name:
            return model.get_submodule(name)
    except AttributeError:
        pass
    hint = suggest(name, [known for known, _ in model.named_modules() if known])
    raise TTameError(
        f"{type(model).__name__} has no layer {name!r}.{hint} "
        "`ttame layers MODEL` lists those that can be used"
    )


def several_runs(name: str, count: int) -> TTameError:
    """Make the error for a layer of which no single output is its feature map."""
    return TTameError(
        f"layer {name!r} runs {count} times in a forward pass (the model uses one module in "
        "several places), so it has no single feature map; choose the module before or around it"
    )


def check_logits(model: nn.Module, output: object) -> Tensor:
    """Return a classifier's output, which must be logits `(B, K)`.

    Raises:
        TTameError: If it is anything else.
    """
    if isinstance(output, Tensor) and output.ndim == 2:
        return output
    what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise TTameError(
        f"{type(model).__name__} returns {what}, not logits (B, K); wrap it in a module whose "
        "forward returns the logits alone"
    )


class FeatureExtractor:
    """Compute the logits and feature maps of a classifier in one forward pass.

    Args:
        model: The classifier.
        layers: Dotted module names, shallow to deep.
        tokens: Handling of a transformer's prefix tokens, as for `to_map`.

    Raises:
        TTameError: If there are no layers, or one does not exist or is given twice.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], tokens: Tokens = "drop") -> None:
        if not layers:
            raise TTameError("name at least one layer; `ttame layers MODEL` lists them")
        self.model, self.layers, self.tokens = model, tuple(layers), tokens
        self.layout = TokenLayout.of(model)
        with capture(model, layers):
            pass  # refuses bad names now rather than at the first image

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the classifier once.

        Args:
            images: Normalised images, `(B, C, H, W)`.

        Returns:
            Logits `(B, K)`, and one map `(B, C_l, h_l, w_l)` per layer in the order of `layers`.

        Raises:
            TTameError: If the model does not return logits, or a layer is not reached, runs
                several times or does not give a feature map.
        """
        runs: Counter[str] = Counter()
        count = observe(self.model, self.layers, lambda name, _: runs.update([name]))
        with count, capture(self.model, self.layers) as outputs:
            logits = check_logits(self.model, self.model(images))
        maps = []
        for name in self.layers:
            if name not in outputs:
                raise TTameError(f"layer {name!r} is not used in the forward pass; choose another")
            if runs[name] > 1:
                raise several_runs(name, runs[name])
            maps.append(to_map(outputs[name], name, images, self.layout, self.tokens))
        return logits, maps
