"""Ablation-CAM: feature maps weighted by what the class loses without each (`ablationcam`)."""

from __future__ import annotations

import torch
from torch import Tensor

from ttame.explainer import Explainer
from ttame.features import TokenLayout, capture, to_map
from ttame.methods.cam import cam_layer_module
from ttame.methods.method import Method
from ttame.methods.replay import replaced, replay_size

_CHUNK = 64  # ablated feature maps at a time
_FAR = 1e7  # as in pytorch-grad-cam


def ablation_cam(explainer: Explainer) -> Method:
    """Ablation-CAM on the backbone's `cam_layer`: ReLU(Σ_k w_k A_k), w_k = (y - y_k) / y.

    y is the logit of the target class and y_k the logit where channel k of the layer's output is
    ablated: zero, as in the paper, where the output has no negative value. Zero is not the
    absence of a channel that has both signs; there it becomes far smaller than any value, the
    rule of pytorch-grad-cam (`gildenblat`). Its value falls on from channel to channel, ours does
    not, which only an unbounded activation behind the layer can tell. Ours is many times faster.

    Where labels have a sigmoid each, the magnitude of y takes its place below: the logit of an
    absent label is negative, and would turn what speaks for the label into what speaks against it.

    An image costs 1 + C forward passes, C the channels; all but one run from the layer on only
    (`replay`).

    Raises:
        TTameError: If the `cam_layer` has no spatial map.
    """
    layer, module = cam_layer_module(explainer, "Ablation-CAM")
    classifier = explainer.classifier
    spec = explainer.spec
    height, width = replay_size(classifier, layer, spec.input_size, spec.channels)

    @torch.inference_mode()
    def explain(images: Tensor, targets: Tensor) -> Tensor:
        with capture(classifier, [layer]) as outputs:
            logits = classifier(images)
        output = outputs[layer]
        assert isinstance(output, Tensor)  # checked when the method was made
        found = to_map(output, layer, images, TokenLayout.of(classifier))  # (B, C, h, w)
        first = found.shape == output.shape  # else channels come last: tokens, or (B, h, w, C)
        maps = []
        for image, own, seen, row, target in zip(
            images, output, found, logits, targets, strict=True
        ):
            low, lost = own.min(), []
            nothing = torch.zeros_like(low) if low >= 0 else low - _FAR
            for channels in torch.arange(len(seen), device=own.device).split(_CHUNK):  # type: ignore[no-untyped-call]
                copies = torch.arange(len(channels), device=own.device)
                ablated = own.expand(len(channels), *own.shape).clone()
                if first:
                    ablated[copies, channels] = nothing
                else:
                    ablated[copies, ..., channels] = nothing
                short = image[:, :height, :width].expand(len(channels), -1, -1, -1)
                with replaced(module, ablated):
                    lost.append(row[target] - classifier(short)[:, target])
            label = explainer.spec.activation == "sigmoid"
            weights = torch.cat(lost) / (row[target].abs() if label else row[target])
            maps.append(torch.einsum("c,chw->hw", weights, seen)[None, None].relu())
        return torch.cat(maps).float()

    return explain
