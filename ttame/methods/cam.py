"""Class activation mapping from pytorch-grad-cam (`gildenblat`), one signature for all of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO

import torch
from torch import Tensor

from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.features import prefix_tokens, to_map


def cam_method(kind: str) -> Callable[[Explainer], Callable[[Tensor, Tensor], Tensor]]:
    """A factory for one of pytorch-grad-cam's classes, on the backbone's `cam_layer`.

    Args:
        kind: Class name in `pytorch_grad_cam`, for example `"GradCAM"`.
    """

    def bind(explainer: Explainer) -> Callable[[Tensor, Tensor], Tensor]:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        layer = explainer.spec.cam_layer or explainer.layers[-1]
        modules = dict(explainer.classifier.named_modules())
        if layer not in modules:
            raise TTameError(f"{kind}: the classifier has no layer {layer!r} (cam_layer)")

        def explain(images: Tensor, targets: Tensor) -> Tensor:
            # The library keeps hooks and activations on the object, so it lives for one call.
            def reshape(output: Tensor) -> Tensor:
                # Some methods send masked copies through, more images than there were.
                like = images[:1].expand(len(output), -1, -1, -1)
                return to_map(output, layer, like, prefix_tokens(explainer.classifier))

            with (
                redirect_stderr(StringIO()),  # Score-CAM shows a progress bar for every image
                torch.inference_mode(False),
                torch.enable_grad(),
                getattr(pytorch_grad_cam, kind)(
                    model=explainer.classifier,
                    target_layers=[modules[layer]],
                    reshape_transform=reshape,
                ) as cam,
            ):
                # The classifier is frozen: gradients start at the image, or nowhere.
                tracked = images.clone().requires_grad_(True)
                maps = cam(
                    input_tensor=tracked,
                    targets=[ClassifierOutputTarget(int(target)) for target in targets],
                )
            return torch.from_numpy(maps)[:, None].to(images.device)

        return explain

    return bind
