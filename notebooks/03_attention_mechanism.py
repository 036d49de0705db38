# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The attention mechanism
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/03_attention_mechanism.ipynb)
#
# **You will learn**
#
# - how a handful of 1×1 convolutions turns {term}`feature maps <Feature map>` into one
#   {term}`explanation map <Explanation map>` per class, by building them yourself in plain torch;
# - what one photo looks like after every step;
# - what each layer adds to the map, measured;
# - why the library fuses before it upsamples, and gets the same map for a fraction of the work.
#
# **It costs** about 20 seconds and 1.5 GB of memory on one CPU core. Nothing is trained or
# downloaded.
#
# **Model and photos.** An EfficientNet-Lite0 {cite}`efficientnet` with its ImageNet weights, and a
# mechanism trained on it as the papers publish it {cite}`tame,ttame`. One sample photo goes through
# all of it; the chapter is the same for every data set.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
photo = "giant_panda"  # a sample photo
layer = 1  # whose branch is looked into step by step, counted from the shallowest
channels = 5  # feature maps that are shown of a layer

# %% tags=["hide-input"]
import timeit

import torch
from IPython.display import Markdown
from torch import nn
from torch.nn.functional import interpolate

import ttame
from ttame.attention import standardize
from ttame.classifiers.classes import short_name
from ttame.companion.figures.architecture import plot_architecture
from ttame.companion.figures.maps import plot_feature_maps
from ttame.companion.figures.masked import plot_masked
from ttame.companion.figures.scores import plot_differences
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import provenance_table, reference, training_record
from ttame.data import samples
from ttame.evaluation.comparison import paired_differences
from ttame.evaluation.diagnosis import WHOLE
from ttame.evaluation.tables import scores
from ttame.images import normalize
from ttame.masking import normalize_maps
from ttame.plotting import plot_grid
from ttame.records import read_results

open_profile(profile)
torch.set_grad_enabled(False)
path = {path.stem: path for path in samples().paths}

# %% [markdown]
# ## The whole of it in one picture

# %%
explainer = ttame.load("tf_efficientnet_lite0_published")
plot_architecture(explainer, path[photo])

# %% [markdown]
# *From left to right: the photo; the feature maps of three layers of the frozen classifier, each
# shown by the channel that adds most to the predicted class; the same channel after the
# layer's {term}`branch <Feature branch>`; what the layer says about the class, red for it and blue
# against it; the sum; and the photo under the map, with the probability that is left. Shapes are
# channels × height × width.*
#
# Only the branches and the weights that make the parts are trained, once per classifier. They see
# nothing of the photo but these feature maps, which the classifier computes anyway on its way to a
# prediction. So an explanation needs no second pass.
#
# ## What goes in

# %%
explanation = explainer.explain(path[photo])
image = normalize(explanation.images, explainer.spec)  # (1, 3, 224, 224)
target = int(explanation.targets)
logits, maps = explainer.extract(image)  # a single pass gives both

# %% tags=["remove-input"]
name = short_name(explainer.classes[target])
shapes = ", ".join(
    f"`{of}` {' × '.join(map(str, found.shape[1:]))}"
    for of, found in zip(explainer.layers, maps, strict=True)
)
Markdown(
    f"The classifier sees a **{name}** ({100 * logits.softmax(dim=1)[0, target]:.0f}\u00a0%). Right "
    "or wrong, its own prediction is the {term}`target class <Target class>` from here on. The feature "
    f"maps $F_1, F_2, F_3$ are {shapes}."
)

# %% tags=["hide-input"]
plot_feature_maps(dict(zip(explainer.layers, maps, strict=True)), channels)

# %% [markdown]
# *Feature maps with the strongest response to the photo, a layer per row, from shallow to deep.
# Shallow maps are fine and follow edges and textures; deep ones are coarse and follow things.*
#
# ## Build it
#
# Three kinds of layers are all it takes. Each feature map gets a 1×1 convolution, which mixes the
# channels at each place and never looks sideways, and a batch normalisation. One last 1×1
# convolution, the {term}`fusion <Fusion>`, has a row of weights for each class.

# %%
widths = [found.shape[1] for found in maps]  # channels of the layers
convolutions = nn.ModuleList(nn.Conv2d(n, n, kernel_size=1) for n in widths)
norms = nn.ModuleList(nn.BatchNorm2d(n) for n in widths).eval()
fusion = nn.Conv2d(sum(widths), len(explainer.classes), kernel_size=1)

# %% [markdown]
# They start with random weights. Training is [a chapter of its own](04_training.ipynb); here the
# weights are copied from the trained mechanism.

# %%
fusion.load_state_dict(explainer.mechanism.fusion.state_dict())
for index, trained in enumerate(explainer.mechanism.branches):
    convolutions[index].load_state_dict(trained.convolution.state_dict())
    norms[index].load_state_dict(trained.norm.state_dict())

# %% [markdown]
# ### A branch for every layer
#
# $$
# B_l = \operatorname{ReLU}\bigl(\operatorname{BN}(W_l * F_l + b_l) + F_l\bigr)
# $$
#
# Convolve, normalise, add the input back, cut off what is negative:

# %%
branches = []
layers = zip(maps, convolutions, norms, strict=True)
for feature, convolution, norm in layers:
    mixed = norm(convolution(feature))
    branches.append(torch.relu(mixed + feature))

# %% tags=["hide-input"]
row = fusion.weight[target, :, 0, 0].split(widths)[layer]
channel = int((row * branches[layer][0].mean(dim=(-2, -1))).argmax())
convolved = convolutions[layer](maps[layer])
steps = {
    "feature map": maps[layer],
    "1×1 convolution": convolved,
    "batch norm": norms[layer](convolved),
    "+ feature map": norms[layer](convolved) + maps[layer],
    "ReLU": branches[layer],
}
plot_grid(
    [[(step, values[0, channel]) for step, values in steps.items()]],
    signed=True,
    what=f"One channel of {explainer.layers[layer]} after each step of its branch",
)

# %% [markdown]
# *One channel of the middle layer on its way through the branch, each picture on its own scale. The
# skip connection keeps the feature map in the sum, so a branch that has learned nothing passes it
# on, and training only needs to learn what to change.*

# %% tags=["hide-input"]
outputs = {f"branch of {of}": found for of, found in zip(explainer.layers, branches, strict=True)}
plot_feature_maps(outputs, channels)

# %% [markdown]
# *What the three branches put out, strongest channels first. Shapes are those of the feature maps;
# everything below zero is gone.*
#
# ### Fuse them
#
# $$
# c_y = v_{y,0} + \sum_{l} v_{y,l} * U(B_l), \qquad a_y = \sigma(c_y)
# $$
#
# $U$ enlarges every branch to the size of the largest. Stacked, they go through the fusion, whose
# row $v_y$ turns all channels into one map of class $y$. The {term}`mask <Mask>` of the papers'
# training is its sigmoid.

# %%
size = maps[0].shape[-2:]  # of the largest map
upsampled = [interpolate(found, size, mode="bilinear") for found in branches]
c = fusion(torch.cat(upsampled, dim=1))  # a map of every class
a = torch.sigmoid(c)

# %% [markdown]
# That is the whole mechanism. With the same weights it is the library's:

# %%
library = explainer.mechanism(maps)
difference = float((c - library).abs().max() / library.abs().max())
assert difference < 1e-6

# %% tags=["remove-input"]
digit, power = f"{difference:.0e}".split("e")
Markdown(
    f"Over all {c.shape[1]:,} maps, the largest difference is "
    rf"${digit} \times 10^{{{int(power)}}}$ of the largest value: rounding."
)

# %% tags=["hide-input"]
plot_grid(
    [[("photo", explanation.images[0]), ("map c", c[0, target]), ("mask a", a[0, target])]],
    what="The photo, the fused map and its sigmoid",
)

# %% [markdown]
# *The photo, the fused map of the predicted class, and the mask that the sigmoid makes of it.*
#
# ## Fuse first, upsample later
#
# The order above is the papers': it enlarges every channel and computes the maps of all classes.
# Upsampling and a 1×1 convolution are both linear, and one works on places, the other on channels.
# So they can be exchanged, $v * U(B) = U(v * B)$. Fused first, each layer leaves a single small map:
# what it says about the class.

# %%
rows = fusion.weight[target, :, 0, 0].split(widths)
pairs = zip(rows, branches, strict=True)
parts = [torch.einsum("c,bchw->bhw", *pair)[:, None] for pair in pairs]
enlarged = [interpolate(part, size, mode="bilinear") for part in parts]
fused_first = sum(enlarged) + fusion.bias[target]

# %% tags=["hide-input"]
said = {
    **dict(zip(explainer.layers, parts, strict=True)),
    "added up": fused_first,
    "papers' order": c[:, [target]],
}
shown = [
    (f"{of}\n{part.min():.1f} to {part.max():.1f}".replace("-", "\N{MINUS SIGN}"), part[0, 0])
    for of, part in said.items()
]
plot_grid([shown], signed=True, what="What each layer says, their sum, and the papers' order")

# %% [markdown]
# *What each layer says about the class, at its own resolution; the three upsampled and added; and
# the map of the section before. Red speaks for the class, blue against it, each picture on its own
# scale: the ranges below the names tell how much a layer matters.*

# %% tags=["remove-input"]
one = torch.tensor([[target]])
apart = float((fused_first[:, 0] - c[:, target]).abs().max() / c[:, target].abs().max())
assert apart < 1e-5, "the two orders differ"
clock = {
    order: 1000 * min(timeit.repeat(call, globals=globals(), number=1, repeat=5))
    for order, call in {
        "papers": "explainer.mechanism.textbook(maps)", "library": "explainer.mechanism(maps, one)"
    }.items()
}  # fmt: skip
cells, wide = size[0] * size[1], sum(widths)
own = sum(found[0].numel() for found in maps)
digit, power = f"{apart:.0e}".split("e")
Markdown(
    rf"The two maps differ by ${digit} \times 10^{{{int(power)}}}$ of the largest value. The papers' "
    f"order enlarges {wide} channels and multiplies {wide * cells * c.shape[1] / 1e6:,.0f} million "
    f"times in the fusion; the library enlarges {len(maps)} channels and multiplies "
    f"{own / 1e6:.2f} million times. Here, branches included, that took {clock['papers']:.0f} ms against {clock['library']:.1f} ms. The "
    "library offers the papers' order as `mechanism.textbook`, to be checked against."
)

# %% [markdown]
# ## What each layer adds
#
# The figure shows one photo. How much a layer matters on many was measured by leaving it out: the
# maps of all three layers against those without one, and against those of one alone.

# %% tags=["hide-input"]
header, records = read_results(reference("diagnosis_published.jsonl"))
costs = paired_differences(scores(records), WHOLE)
masked = [score for score in dict.fromkeys(costs["score"]) if score[:2] in ("AD", "IC")]
plot_differences(costs, WHOLE, masked)

# %% [markdown]
# *Right of zero, all three layers are ahead of the reading on the left, in
# {term}`Average Drop` (AD) and {term}`Increase in Confidence` (IC) when 100, 50 or 15 % of the
# pixels are kept. Bars are 95 % intervals over photos; grey: no difference is shown.*

# %% tags=["remove-input"]
cost = costs.set_index(["against", "score"])
share = {
    row["layer"]: row["share"] for row in training_record(explainer.record["name"])["diagnosis"]
}
shallow, middle, deepest_layer = explainer.layers
lost = {of: -cost.loc[(f"without {of}", "AD 50%"), "difference"] for of in explainer.layers}
alone = -cost.loc[(f"only {deepest_layer}", "AD 100%"), "difference"]
Markdown(
    f"**The deepest layer makes the map.** Without `{deepest_layer}`, AD at 50\u00a0% rises by "
    f"{lost[deepest_layer]:.0f} percentage points ({records['photo'].nunique()} photos of "
    f"Imagenette). Without `{shallow}` it rises by {lost[shallow]:.1f}, "
    f"without `{middle}` by {lost[middle]:.1f}: no more than chance could do. By IC each is worth "
    "a few points at one share of pixels, and with the deepest layer alone AD at 100\u00a0% is "
    f"{alone:.1f} points higher. The parts say the same. Over the photo, that of the deepest layer varies "
    f"{share[deepest_layer]:.2f} times as much as the whole map, that of the shallowest "
    f"{share[shallow]:.2f} times. [Feature selection](02_feature_selection.ipynb) asks what follows."
)

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show where the numbers come from", "code_prompt_hide": "Hide where the numbers come from"}
provenance_table(header).style

# %% [markdown]
# *Where these measurements come from.*
#
# ## From map to mask
#
# A map has no scale of its own. The papers' training squeezes it by the sigmoid; every score and
# every figure in this book scales it from its own lowest to its own highest value instead
# (*min-max*), keeps the best pixels, and asks the classifier again.

# %% tags=["hide-input"]
plot_masked(
    explainer, image, explanation.targets[0], {"map": explanation.maps}, percentages=(100, 50, 15)
)

# %% [markdown]
# *The photo; its map laid over it; and what is left when 100, 50 and 15 % of the pixels are kept,
# each multiplied by its value in the mask, with the remaining probability p′. Hidden pixels take
# the mean colour.*
#
# ## What our recipe changes
#
# What you have built is T-TAME (as published). The explainer that the other chapters use, T-TAME
# (our recipe), keeps the idea and changes three things:
#
# - **Min-max in training, too.** The mask that is trained is the one that is scored.
# - **{term}`Tied rows`.** The papers learn a free row of weights for each class from photos of that
#   class. We tie the rows to the classifier's own {term}`class vectors <Class vector>`, so that all
#   classes share what is learned, and rare ones get good maps as well.
# - **A {term}`decoder <Decoder>`.** Fusion only adds up what the layers say. Our recipe drops the
#   branches, fuses the feature maps themselves, and hands the fused map to a small convolutional
#   network, whose weights all classes share: it can let one thing decide how another is read.

# %% tags=["hide-input"]
ours = ttame.load("tf_efficientnet_lite0")
deepest = ours.extract(image)[1]
fused = ours.mechanism.layer_parts(deepest, one)[0]
start, refined = torch.sigmoid(2 * standardize(fused) + 1), ours.mechanism(deepest, one)
plot_grid(
    [
        [
            ("photo", explanation.images[0]),
            ("fused map", normalize_maps(fused)[0, 0]),
            ("decoder, untrained", normalize_maps(start)[0, 0]),
            ("decoder, trained", normalize_maps(refined)[0, 0]),
        ]
    ],
    what="The fused map of our recipe, and what the decoder makes of it before and after training",
)

# %% [markdown]
# *The fused map of the deepest layer, what an untrained decoder makes of it, and what the trained
# one does.*

# %% tags=["remove-input"]
learned = sum(found.numel() for found in ours.mechanism.decoder.parameters())
branched = sum(found.numel() for found in explainer.mechanism.branches.parameters())
Markdown(
    f"The decoder has {learned:,} weights, the branches that it replaces {branched:,}. "
    "[Feature selection](02_feature_selection.ipynb) shows why our recipe reads the deepest layer "
    "alone, [the method](../book/method.md) has the equations, and [the "
    "ablations](08_ablations_mechanism.ipynb) measure every part."
)

# %% [markdown]
# ## What to remember
#
# - The mechanism reads the classifier's own feature maps: one pass gives the prediction and a map
#   of any class.
# - A branch is 1×1 convolution, batch norm, skip connection, rectifier. It changes neither the
#   number of channels nor the resolution.
# - The fusion is linear, with a row of weights per class, so the map is a sum of what each layer
#   says.
# - Because upsampling is linear as well, fusing first gives the same map and saves almost all of
#   the work.
#
# ## Exercises
#
# **1.** `c` holds the maps of all classes. Show the map of the second most probable class beside
# that of the first, and the difference of the two.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
first, second = logits[0].topk(2).indices.tolist()
named = [(short_name(explainer.classes[index]), c[0, index]) for index in (first, second)]
plot_grid([[*named, ("difference", c[0, first] - c[0, second])]], signed=True,
          what="Maps of the two most probable classes, and their difference")  # fmt: skip

# %% [markdown]
# **2.** What does the skip connection do? Leave it out, with the weights as they are, and correlate
# the new map with the old one.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
without = [
    torch.relu(norm(convolution(feature)))
    for feature, convolution, norm in zip(maps, convolutions, norms, strict=True)
]
bare = fusion(torch.cat([interpolate(x, size, mode="bilinear") for x in without], 1))
pair = torch.stack([c[0, target].flatten(), bare[0, target].flatten()])
print(f"correlation with the map: {torch.corrcoef(pair)[0, 1]:.2f}")

# %% [markdown]
# **3.** Does the order still not matter if the branches are enlarged by `mode="nearest"`? And if
# the rectifier came after the upsampling?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
nearest = [interpolate(found, size, mode="nearest") for found in branches]
early = sum(interpolate(part, size, mode="nearest") for part in parts)
late = fusion(torch.cat(nearest, dim=1))[:, target] - fusion.bias[target]
gap = float((early[:, 0] - late).abs().max())
print(f"nearest: they differ by {gap:.6f}: enlarging is still linear, so nothing changes")
deep = convolutions[2](maps[2])
orders = [torch.relu(interpolate(deep, size, mode="bilinear")),
          interpolate(torch.relu(deep), size, mode="bilinear")]  # fmt: skip
gap = float((orders[0] - orders[1]).abs().max())
print(f"rectifier after upsampling: they differ by {gap:.1f}, because it is not linear")
