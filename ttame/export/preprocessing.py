"""Preprocessing inside the file: from the pixels of photos to what the network takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttame.errors import TTameError

if TYPE_CHECKING:
    from onnx import ModelProto

    from ttame.classifiers.specs import BackboneSpec

PIXELS = "pixels"
# ONNX names for the interpolation of photos; the cubic is Pillow's.
_MODES = {"bilinear": 'mode = "linear"', "bicubic": 'mode = "cubic", cubic_coeff_a = -0.5'}
_MAX_ASPECT = 4  # as `ttame.classifiers.transforms`


def prepend(before: ModelProto, model: ModelProto) -> ModelProto:
    """Put preprocessing before a network: its input is then `pixels`, not `images`."""
    from onnx import compose

    # Both have nodes of the same names.
    own = compose.add_prefix(before, "prepare/", rename_inputs=False, rename_outputs=False)
    joined = compose.merge_models(own, model, io_map=[("prepared", "images")])
    joined.producer_name = model.producer_name
    return joined


def preprocessing(spec: BackboneSpec, model: ModelProto) -> ModelProto:
    """Build what `eval_transform` and `normalize` do as an ONNX graph.

    Photos `pixels` `(B, height, width, C)` uint8, upright and of one size, become `prepared`
    `(B, C, H, W)` float32. As in Pillow, rows are resized before columns, and what lies between is
    rounded to 8 bits, which cuts what a cubic overshoots.

    Args:
        spec: Facts of the classifier.
        model: The network that follows, whose versions of ONNX are used.

    Raises:
        TTameError: If the classifier's interpolation has no counterpart, or photos are padded.
    """
    import onnx

    (tall, wide), resize = spec.input_size, spec.resize
    share = 1.0 if isinstance(resize, tuple) else resize / min(tall, wide)
    down, across = resize if isinstance(resize, tuple) else (
        round(tall * share), round(wide * share)
    )  # fmt: skip
    if down < tall or across < wide:
        raise TTameError(
            f"preprocessing of {spec.name} resizes to {down}x{across} and pads to {tall}x{wide}, "
            "which is not exported; export without preprocessing"
        )
    if isinstance(resize, tuple):
        cut = "whole = Identity(channels)"
        size = f"size = Constant<value_ints = [{down}, {across}]>()"
    else:
        cut = f"""
        shape = Shape<start = 2, end = 4>(channels)
        swapped = Gather<axis = 0>(shape, turned)
        aspect = Constant<value_ints = [{_MAX_ASPECT * tall}, {_MAX_ASPECT * wide}]>()
        sides = Constant<value_ints = [{wide}, {tall}]>()
        product = Mul(swapped, aspect)
        quotient = Div(product, sides)
        positive = Max(quotient, ones)
        keep = Min(shape, positive)
        spare = Sub(shape, keep)
        begin = Div(spare, twos)
        end = Add(begin, keep)
        whole = Slice(channels, begin, end, axes)"""
        size = f"""
        kept = Shape<start = 2, end = 4>(whole)
        other = Gather<axis = 0>(kept, turned)
        least = Constant<value_ints = [{down}, {across}]>()
        opposite = Gather<axis = 0>(least, turned)
        grown = Mul(kept, opposite)
        fitted = Div(grown, other)
        size = Max(least, fitted)"""
    count = spec.channels
    before = onnx.parser.parse_model(f"""
    <ir_version: {model.ir_version}, opset_import: ["" : {model.opset_import[0].version}]>
    preprocessing (uint8[batch, height, width, {count}] {PIXELS})
        => (float[batch, {count}, {tall}, {wide}] prepared)
    {{
        turned = Constant<value_ints = [1, 0]>()
        ones = Constant<value_ints = [1, 1]>()
        twos = Constant<value_ints = [2, 2]>()
        axes = Constant<value_ints = [2, 3]>()
        float_pixels = Cast<to = 1>({PIXELS})
        channels = Transpose<perm = [0, 3, 1, 2]>(float_pixels)
        {cut}
        {size}
        black = Constant<value_float = 0.0>()
        white = Constant<value_float = 255.0>()
        first = Constant<value_ints = [0]>()
        second = Constant<value_ints = [1]>()
        across = Gather<axis = 0>(size, second)
        front = Shape<start = 0, end = 3>(whole)
        wide_sizes = Concat<axis = 0>(front, across)
        wide_float = Resize<{_resize(spec)}>(whole, , , wide_sizes)
        wide_round = Round(wide_float)
        wide = Clip(wide_round, black, white)
        down = Gather<axis = 0>(size, first)
        outer = Shape<start = 0, end = 2>(whole)
        sizes = Concat<axis = 0>(outer, down, across)
        tall_float = Resize<{_resize(spec)}>(wide, , , sizes)
        tall_round = Round(tall_float)
        grey = Clip(tall_round, black, white)
        input_size = Constant<value_ints = [{tall}, {wide}]>()
        beyond = Sub(size, input_size)
        beyond_float = Cast<to = 1>(beyond)
        two = Constant<value_float = 2.0>()
        half = Div(beyond_float, two)
        centre = Round(half)
        start = Cast<to = 7>(centre)
        stop = Add(start, input_size)
        crop = Slice(grey, start, stop, axes)
        unit = Div(crop, white)
        shifted = Sub(unit, mean)
        prepared = Div(shifted, std)
    }}
    """)
    for name, values in (("mean", spec.mean), ("std", spec.std)):
        tensor = onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, (1, count, 1, 1), values)
        before.graph.initializer.append(tensor)
    return before


def _resize(spec: BackboneSpec) -> str:
    """Write down the attributes of `Resize`."""
    if spec.interpolation not in _MODES:
        raise TTameError(
            f"preprocessing of {spec.name} resizes by {spec.interpolation!r}, which ONNX does not "
            f"have; it has {' and '.join(_MODES)}: export without preprocessing"
        )
    mode = _MODES[spec.interpolation]
    return (
        f'{mode}, antialias = 1, exclude_outside = 1, coordinate_transformation_mode = "half_pixel"'
    )
