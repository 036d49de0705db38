"""IIA: gradients integrated along the image's path and along that of its feature map (`iia`)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.features import TokenLayout, capture, to_map
from ttame.methods.cam import cam_layer_module
from ttame.methods.method import Method, one_by_one
from ttame.methods.replay import replaced, replay_size

_CHUNK = 16  # images a forward pass


def iia_method(steps: int = 10) -> Callable[[Explainer], Method]:
    """Make a factory for Iterated Integrated Attributions with two integrals (the paper's IIA2).

    With the image x, the feature map u(a) of the `cam_layer` at the image a·x, its reference
    r(a) (the minimum of every channel over the positions) and v = r + b (u - r), the map is
    the sum over channels of

        ∫₀¹ (u - r) ∘ ∫₀¹ v ∘ ∂y_t/∂v db da,

    the paper's Eq. 9 with its integrand for convolutional networks, y_t the logit of the
    target class. Both integrals are right Riemann sums at 1/n, 2/n, …, 1. The map has the
    resolution of the layer and keeps its sign: the authors scale it by minimum and maximum
    without a ReLU, which is what masking does with it.

    How far this is the authors' method. The number of steps is theirs. The equation was read
    in a summary of the paper, not in its text, so the factor u - r beside v is the least
    certain part. The path starts at zero in normalised values, the mean colour, as in the
    authors' code. That code also differs from the equation: it takes the points at 0 along,
    and its reference is u itself, which leaves Σ_c u ∘ ∂y_t/∂u along the image's path alone.
    For transformers the paper integrates attention matrices instead; here the layer's tokens
    take the place of the map, prefix tokens among them until the end, where they are dropped.

    An image costs n + n² forward and n² backward passes, 110 and 100 for 10 steps; n² of each
    run from the layer on only (`replay`).

    Args:
        steps: Points n an integral.

    Raises:
        TTameError: If `steps` is below 1; from the factory, if the `cam_layer` has no spatial
            map.
    """
    if steps < 1:
        raise TTameError(f"IIA: an integral needs at least 1 step, got {steps!r}")

    def bind(explainer: Explainer) -> Method:
        layer, module = cam_layer_module(explainer, "IIA")
        classifier = explainer.classifier
        spec = explainer.spec
        height, width = replay_size(classifier, layer, spec.input_size, spec.channels)

        def attribute(path: Tensor, target: int) -> Tensor:
            """Sum over some points of the image's path `(a, C, H, W)`: `(1, 1, h, w)`."""
            with torch.no_grad(), capture(classifier, [layer]) as outputs:
                classifier(path)
            output = outputs[layer]
            assert isinstance(output, Tensor)  # checked when the method was made
            layout = TokenLayout.of(classifier)
            first = to_map(output, layer, path, layout) is output  # else channels come last
            places = (2, 3) if first else tuple(range(1, output.ndim - 1))
            reference = output.amin(dim=places, keepdim=True)
            span, total = output - reference, torch.zeros_like(output, dtype=torch.float32)
            for step in range(1, steps + 1):
                point = (reference + step / steps * span).requires_grad_(True)
                with replaced(module, point):
                    logits = classifier(path[..., :height, :width])
                (gradient,) = torch.autograd.grad(logits[:, target].sum(), point)
                total += (span * point.detach() * gradient).float()
            maps = to_map(total, layer, path, layout)  # (a, C, h, w)
            return maps.sum(dim=(0, 1))[None, None]

        @one_by_one
        def explain(image: Tensor, target: Tensor) -> Tensor:
            with torch.inference_mode(False), torch.enable_grad():
                scale = torch.arange(1, steps + 1, device=image.device, dtype=image.dtype)
                path = (scale / steps).view(-1, 1, 1, 1) * image.clone()
                parts = [attribute(part, int(target)) for part in torch.split(path, _CHUNK)]
                return torch.stack(parts).sum(dim=0) / steps**2

        return explain

    return bind
