"""Speed of exported files: onnxruntime and PyTorch, one after the other, in one process."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ttame.errors import TTameError
from ttame.evaluation.cost import alternate
from ttame.explainer import Explainer
from ttame.export.graph import open_graph


def measure_runtime(
    explainer: Explainer, batch_sizes: Sequence[int] = (1, 32), repeats: int = 21, seed: int = 0
) -> list[dict[str, Any]]:
    """Time plain forward passes and explanations of the predicted class.

    Passes and explanations of one program alternate. The programs do not: threads of either go on
    spinning for a while after a pass, and would be in the way of the other's. Both have as many
    threads as torch. The plain pass of onnxruntime is the part of the exported
    graph that leads to the logits.

    Args:
        explainer: In `eval()`, in float32 on the CPU.
        batch_sizes: Photos at a time.
        repeats: Timed turns; two more of a batch size warm up and do not count.
        seed: Seed of the random input (convolutions take the same time on noise as on photos).

    Returns:
        One record per batch size: medians in milliseconds per batch and the ratios of
        onnxruntime's times to PyTorch's.

    Raises:
        TTameError: If there are too few repeats for a median.
    """
    if repeats < 3:
        raise TTameError(f"repeats must be at least 3, got {repeats}")
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "explainer.onnx"
        explainer.export(path)
        # The number of photos may be read from either input.
        plain = onnx.utils.Extractor(onnx.load(path)).extract_model(
            ["images", "targets"], ["logits"]
        )
        exported, plain_run = open_graph(path), open_graph(plain.SerializeToString())
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for batch in batch_sizes:
        spec = explainer.spec
        images = torch.randn(batch, spec.channels, *spec.input_size, generator=generator)
        array, targets = images.numpy(), torch.full((batch,), -1).numpy()
        of_torch = (
            lambda images=images: explainer.classifier(images),
            lambda images=images: explainer(images),
        )
        of_onnxruntime = (
            lambda array=array, targets=targets: plain_run(array, targets),
            lambda array=array, targets=targets: exported(array, targets),
        )
        with torch.inference_mode():
            times = [
                seconds for functions in (of_torch, of_onnxruntime)
                for seconds in alternate(functions, repeats, images.device, warm_up=2)
            ]  # fmt: skip
        forward, explanation, ort_forward, ort_explanation = (
            1000 * statistics.median(turns) for turns in times
        )
        rows.append(
            {
                "backbone": spec.name,
                "batch": batch,
                "torch_forward_ms": forward,
                "torch_explanation_ms": explanation,
                "onnxruntime_forward_ms": ort_forward,
                "onnxruntime_explanation_ms": ort_explanation,
                "forward_ratio": ort_forward / forward,
                "explanation_ratio": ort_explanation / explanation,
                "repeats": repeats,
                "threads": torch.get_num_threads(),
            }
        )
    return rows
