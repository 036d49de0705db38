"""The sanity check: does a map change when the classifier forgets what it learnt?

Cascading randomisation (`sanity_checks`): the classifier's layers are re-initialised one after
another from the head downwards, and each map is compared with that of the intact classifier. A
map that stays as it was cannot have shown what was learnt; a low correlation is good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from ttame.classifiers.passes import OwnDraws, copy_module
from ttame.classifiers.weights import input_like
from ttame.errors import TTameError, suggest
from ttame.evaluation.correlation import rank_correlation
from ttame.explainer import Explainer
from ttame.features import hooked
from ttame.masking import degenerate, upsample
from ttame.methods import Method

STAGES = 8


def cascade(
    classifier: nn.Module, input_size: Sequence[int] = (224, 224), channels: int = 3
) -> list[str]:
    """List the modules that hold parameters, from the head down to the first layer.

    The order is that of one forward pass of a black image, reversed. A module with parameters
    of its own and children (an attention block, the network with its class token) starts
    before them, so it comes after them here. Parameters in a module that is never called by
    itself belong to the nearest module around it that is.

    Args:
        classifier: The bare classifier.
        input_size: Height and width of the image, pixels.
        channels: Channels of the image.

    Returns:
        Dotted module names, deepest first; `""` is the network itself. No name is given twice,
        and together they cover every parameter.

    Raises:
        TTameError: If the classifier has no parameters.
    """
    if next(classifier.parameters(), None) is None:
        raise TTameError(f"{type(classifier).__name__} has no parameters to randomise")
    calls: dict[str, None] = {}  # in the order of their last call

    def record(name: str, _module: nn.Module, _args: object) -> None:
        calls.pop(name, None)
        calls[name] = None

    with torch.no_grad(), ExitStack() as hooks:
        for name, module in classifier.named_modules():
            hooks.enter_context(hooked(module, partial(record, name), before=True))
        classifier(input_like(classifier).new_zeros(1, channels, *input_size))
    holders = set()
    for name, module in classifier.named_modules():
        if _learned(module):
            while name and name not in calls:
                name = name.rpartition(".")[0]
            holders.add(name)
    return [name for name in reversed(calls) if name in holders]


def randomized(classifier: nn.Module, names: Sequence[str], seed: int = 0) -> nn.Module:
    """Copy the classifier with the parameters of the named modules drawn anew.

    Each module in them is reset as torch initialises it (`reset_parameters`, which also resets
    batch norm's statistics). Tensors without such a rule are drawn from a normal distribution
    with mean 0 and the old standard deviation, truncated at twice that; a constant one (a
    fresh scale, a single number) holds no pattern and stays. The draws depend on the seed and
    the module's name only, not on what else is randomised: a longer cascade keeps the layers
    of a shorter one.

    Args:
        classifier: Not changed.
        names: Dotted module names; what is inside them is included.
        seed: Seed of the draws; the global generators are not touched.

    Returns:
        The copy, with the mode, device and `requires_grad` of the original.

    Raises:
        TTameError: If a name does not exist.
    """
    known = dict(classifier.named_modules())
    for name in names:
        if name not in known:
            raise TTameError(
                f"{type(classifier).__name__} has no module {name!r}.{suggest(name, known)} "
                "`cascade` lists those with parameters"
            )
    # Tensors made in inference mode could not be differentiated later.
    with torch.inference_mode(False), torch.no_grad():
        model, modules = copy_module(classifier), dict[str, nn.Module]()
        for name in names:
            modules |= dict(model.get_submodule(name).named_modules(prefix=name))
        for name, module in modules.items():
            if _learned(module):
                _reset(module, name, seed)
    return model


def sanity_check(
    explainer: Explainer,
    build_method: Callable[[Explainer], Method],
    images: Tensor,
    targets: Tensor,
    *,
    stages: int | Sequence[int] = STAGES,
    seed: int = 0,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Compare a method's maps before and after cascading randomisation (`sanity_checks`).

    Only the classifier is randomised. A trained attention mechanism is kept, as part of the
    method: it was trained on the intact classifier's feature maps and now reads those of the
    randomised one. So for T-TAME the check asks whether the map depends on these feature maps;
    the head is no input of its maps, so stages above its deepest layer leave them as they are.
    Targets are kept as well, whatever the randomised classifier predicts. In a deep classifier
    torch's initial weights let the signal fade from layer to layer, until maps turn constant:
    report the `degenerate` ones beside the mean correlation, which they pull towards 0.

    Args:
        explainer: In `eval()`; neither it nor its classifier is changed.
        build_method: Binds the method to an explainer, for example `METHODS["Grad-CAM"]`.
        images: Normalised photos, `(B, C, H, W)`.
        targets: Target classes, `(B,)` int64.
        stages: How many stages, spread evenly from the head alone to the whole network; or the
            numbers of modules to randomise from the top of `cascade`, ascending.
        seed: Seed of the new weights.
        batch_size: Photos explained at a time.

    Returns:
        One row per stage and photo: `photo` (its index), `stage` (modules randomised), `layer`
        (the deepest of them), `randomized` (share of the parameters, percent), `correlation`
        (`rank_correlation` of the two raw maps at the images' size, signed values) and
        `degenerate` (one of the maps is constant or not finite; the correlation counts as 0).

    Raises:
        TTameError: If the explainer is in training mode, images and targets do not agree, the
            method gives no maps `(B, 1, h, w)`, or a stage is not in the cascade.
    """
    if explainer.mechanism.training:
        raise TTameError("the explainer is in training mode; call explainer.eval() first")
    if images.ndim != 4 or len(images) == 0 or targets.shape != images.shape[:1]:
        raise TTameError(
            f"images {tuple(images.shape)} and targets {tuple(targets.shape)} must be "
            "(B, C, H, W) and (B,), at least one photo"
        )
    if batch_size < 1:
        raise TTameError(f"batch_size must be at least 1, got {batch_size}")
    spec = explainer.spec
    names = cascade(explainer.classifier, spec.input_size, spec.channels)
    counts = _counts(stages, len(names))

    def explain(bound: Explainer) -> tuple[Tensor, Tensor]:
        method, pieces, flags = build_method(bound), [], []
        for start in range(0, len(images), batch_size):
            some = images[start : start + batch_size]
            maps = method(some, targets[start : start + batch_size]).detach().float()
            if maps.ndim != 4 or maps.shape[:2] != (len(some), 1):
                raise TTameError(
                    f"the method returned {tuple(maps.shape)} for {len(some)} images; expected "
                    f"({len(some)}, 1, h, w)"
                )
            flat = degenerate(maps)
            # Judged before enlarging, which would round a constant map into a pattern.
            maps = torch.where(flat[..., None, None], torch.zeros_like(maps), maps)
            pieces.append(upsample(maps, images.shape[-2:]))
            flags.append(flat[:, 0])
        return torch.cat(pieces), torch.cat(flags)

    original, blank = explain(explainer)
    tables = []
    for count in counts:
        classifier, some = explainer.classifier, names[:count]
        model = randomized(classifier, some, seed)
        drawn = {value for name in some for value in classifier.get_submodule(name).parameters()}
        sizes = [sum(map(torch.numel, values)) for values in (drawn, classifier.parameters())]
        maps, flags = explain(explainer.replace(classifier=model).eval())
        rows = {
            "photo": range(len(images)),
            "stage": count,
            "layer": names[count - 1] or type(model).__name__,
            "randomized": 100 * sizes[0] / sizes[1],
            "correlation": rank_correlation(original, maps).tolist(),
            "degenerate": (blank | flags).tolist(),
        }
        tables.append(pd.DataFrame(rows))
    return pd.concat(tables, ignore_index=True)


def _learned(module: nn.Module) -> bool:
    """Tell whether the module itself, not a child, holds something learnt."""
    if any(True for _ in module.parameters(recurse=False)):
        return True
    return isinstance(getattr(module, "running_mean", None), Tensor)  # batch norm without scale


def _reset(module: nn.Module, name: str, seed: int) -> None:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
    own = list(module.parameters(recurse=False))
    reset = getattr(module, "reset_parameters", None)
    # A container's reset would reach into its children, which have turns of their own.
    if callable(reset) and len(own) == len(list(module.parameters())):
        device = [*own, *module.buffers()][0].device
        module.cpu()  # drawn there, the weights are the same on every device
        with OwnDraws(int(digest[:15], 16)):
            reset()
        module.to(device)
        return
    with OwnDraws(int(digest[:15], 16)):
        _redraw(own)


def _redraw(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        spread = float(tensor.float().std(correction=0))
        if spread > 0:
            drawn = torch.empty(tensor.shape, device="cpu")
            nn.init.trunc_normal_(drawn, std=spread, a=-2 * spread, b=2 * spread)
            tensor.copy_(drawn)


def _counts(stages: int | Sequence[int], layers: int) -> list[int]:
    """Count the modules that each stage randomises."""
    if isinstance(stages, int):
        if stages < 1:
            raise TTameError(f"stages must be at least 1, got {stages}")
        spread = torch.linspace(layers, 1, stages).round().int().tolist()  # one: the whole network
        return sorted(set(spread))
    counts = [int(count) for count in stages]
    if not counts or counts != sorted(set(counts)) or not 1 <= counts[0] <= counts[-1] <= layers:
        raise TTameError(
            f"stages must be ascending numbers of modules in 1..{layers}, got {counts}; or give "
            "how many stages to spread over the cascade"
        )
    return counts
