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
# # Vision Transformers
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/07_vision_transformers.ipynb)
#
# **You will learn**
#
# - how the tokens of a Vision Transformer {cite}`vit` become {term}`feature maps <Feature map>`, and
#   what to do with the one token that belongs to no place;
# - why attention is not yet an explanation: it knows no class;
# - how T-TAME {cite}`ttame` compares with the methods made for transformers, and where it loses;
# - what maps say when the classifier is wrong.
#
# **It costs** about 30 seconds and 2 GB of memory on one CPU core; nothing is downloaded.
#
# **Model and photos.** Two small transformers of this project, made by distillation
# {cite}`distillation`. What runs here runs on the one that knows all 1,000 classes of ImageNet and
# on sample photos; the larger comparison also reads results of one that knows the ten classes of
# Imagenette {cite}`imagenette`.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
shown = ["giant_panda", "honey_bee", "crab"]  # sample photos
mistaken = {  # sample photos, and what they show
    "german_shepherd": "German shepherd",
    "scarlet_macaw": "macaw",
    "suspension_bridge": "suspension bridge",
}
channels = 5  # feature maps that are shown of a layer

# %% tags=["hide-input"]
import pandas as pd
import torch
from IPython.display import Markdown, display

import ttame
from ttame.classifiers.classes import class_index, short_name
from ttame.classifiers.layers import list_layers
from ttame.companion.figures.curves import plot_drops, plot_road
from ttame.companion.figures.maps import plot_feature_maps, plot_layers
from ttame.companion.figures.scores import plot_differences
from ttame.companion.figures.training import plot_curves
from ttame.companion.headline import MEASURES, common_photos, headline, read_comparison
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import provenances, reference, training_curves, training_record
from ttame.data import samples
from ttame.evaluation.agreement import BLIND
from ttame.evaluation.comparison import in_short, paired_differences
from ttame.evaluation.confidence import higher_is_better
from ttame.evaluation.tables import curves, per_sample, read_together, scores, summary
from ttame.features import capture, to_map, token_grid
from ttame.images import normalize, to_batch
from ttame.masking import normalize_maps, upsample
from ttame.methods import METHODS, build
from ttame.methods.attention_weights import read_attention
from ttame.methods.transformer import head_row
from ttame.plotting import blend, plot_grid, plot_methods
from ttame.records import read_results

setting = open_profile(profile)

# %% [markdown]
# ## From tokens to maps
#
# A transformer's block puts out a row of tokens. Some stand in front and belong to no place, such
# as the {term}`class token <Class token>`, which the head reads. The others are the
# {term}`patches <Patch token>`, row by row; laid out on their grid they are feature maps like any
# others.

# %%
explainer = ttame.load("vit_hybrid_imagenet")
classifier, spec = explainer.classifier, explainer.spec
paths = {path.stem: path for path in samples().paths}
raw = to_batch([paths[name] for name in shown], spec)
images = normalize(raw, spec)

# %%
with torch.inference_mode(), capture(classifier, explainer.layers) as outputs:
    probability, target = classifier(images).softmax(dim=1).max(dim=1)
((layer, tokens),) = outputs.items()
before, height, width = token_grid(tokens.shape[1], images.shape[-2:], classifier.num_prefix_tokens)
print(f"{layer}: {len(tokens)} photos, {tokens.shape[1]} tokens "
      f"({before} + {height} × {width}), {tokens.shape[2]} channels")  # fmt: skip
tapped = to_map(tokens, layer, images, before)
plot_feature_maps({layer: tapped[:1]}, channels)

# %% [markdown]
# *The patch tokens of the first photo as feature maps: the channels of strongest response at the
# input of the last block, which is what T-TAME (our recipe) reads.*

# %% tags=["hide-input"]
large = training_record("vit_hybrid_imagenet", "classifiers")
agreed = large["agreement"]
card = large["hardware"].removeprefix("1 x ").split(" 80GB")[0]
Markdown(
    "**Which transformer is this?** The papers explain ViT-B-16, whose weights this page cannot "
    "fetch. Its stand-in is a *hybrid*, in the original paper's word: its patches are the cells of "
    f"a convolutional stem, {large['config']['stages']} stages of EfficientNet-Lite0 that stay "
    f"frozen, and behind it stand {large['config']['depth']} blocks and a class token. Without "
    "labels they learnt what the rest of that network answers, at every place and for the photo, "
    f"in {large['minutes']:.0f} minutes on an {card}. It is right "
    f"on {large['top1']:.1f}\u00a0% of Imagenette's validation photos, more than its teacher "
    f"({large['teacher_top1']:.1f}\u00a0%), because those classes make up most of the transformer's "
    f"training photos. On kinds of things that it never saw, it gives its teacher's answer on only "
    f"{agreed['photos/val']:.0f}\u00a0%."
)

# %% [markdown]
# ## Attention is not yet an explanation
#
# How much does the class token attend to each patch? That is often shown as an explanation. But it
# is one number per patch for every head and block, and the same whatever class is asked about.

# %%
seen = read_attention(classifier, images, gradients=False)
row = head_row(classifier, seen)
looks = {f"block {depth}": (row @ found.mean(dim=1))[:, None, seen.prefix :]
         .reshape(len(images), 1, *seen.grid)
         for depth, found in enumerate(seen.probabilities)}  # fmt: skip

# %% tags=["hide-input"]
captions = [
    f"{short_name(explainer.classes[index])}\n{100 * value:.0f}\u00a0%"
    for index, value in zip(target.tolist(), probability.tolist(), strict=True)
]
plot_methods(raw, looks, captions)

# %% [markdown]
# *How much the class token attends to each patch, mean over heads, one block per column. Photos
# in rows with the predicted class and its probability; every map is scaled to its own range.*
#
# ## The same photos, five methods

# %%
names = ("T-TAME", "Grad-CAM", "attention rollout", "Transformer attribution", "LeGrad")
maps = {name: build(name, explainer)(images, target) for name in names}
plot_methods(raw, maps, captions)

# %% [markdown]
# *Maps of the predicted class. Rollout {cite}`rollout` multiplies the attention of all blocks and
# knows no class; Transformer attribution is the generic rule {cite}`chefer_generic`, which weighs
# attention by gradients; LeGrad {cite}`legrad` takes the gradient at every block, which adds up to
# about one backward pass.*
#
# ## When it is wrong
#
# An explanation is of the classifier, not of the photo. On these photos the transformer gives a
# wrong answer, and T-TAME can be asked about both: what it said, and what it should have said.

# %%
wrong = normalize(to_batch([paths[name] for name in mistaken], spec), spec)
right = torch.tensor([class_index(name, explainer.classes) for name in mistaken.values()])
with torch.inference_mode():
    chances = classifier(wrong).softmax(dim=1)
    asked = torch.stack([chances.argmax(dim=1), right], dim=1)
    both = explainer(wrong, asked)[2]

# %% tags=["hide-input"]
pictures = to_batch([paths[name] for name in mistaken], spec)
masks = upsample(normalize_maps(both), pictures.shape[-2:])
rows = []
for picture, mask, classes, chance, name in zip(
    pictures, masks, asked.tolist(), chances, mistaken.values(), strict=True
):
    titles = [f"{word}: {short_name(explainer.classes[index])}, {100 * chance[index]:.0f}\u00a0%"
              for word, index in zip(("says", "should say"), classes, strict=True)]  # fmt: skip
    rows.append([(f"a photo of: {name}", picture), *zip(titles, blend(picture, mask), strict=True)])
plot_grid(rows, cell=1.7, what="Photos with a wrong answer, its map and that of the right class",
          bar=True)  # fmt: skip

# %% [markdown]
# *Three sample photos that the transformer gets wrong; the map of its answer, and the map of the
# class that would be right, each with the probability that it gives that class.*
#
# ## Against the methods made for transformers
#
# The fair test is on many photos, by measures that no blind map wins
# ([evaluation](06_evaluation.ipynb)). It was made on the transformer of ten classes.

# %%
comparison = read_comparison("transformer")
fair = comparison.long["score"].isin(MEASURES) & ~comparison.long["method"].isin(BLIND)
differences = paired_differences(comparison.long[fair])
plot_differences(differences)

# %% [markdown]
# *T-TAME (our recipe) against every other method: mean paired difference, signed so that right of
# zero T-TAME is better, with 95 % intervals over photos. P-TAME {cite}`ptame` takes its features
# from a second classifier; amortised Shapley {cite}`vitshapley` learns to predict Shapley values.*

# %%
table = headline(comparison)
table.style.format(precision=1, na_rep="–").format(precision=0, subset=["forward", "backward"])

# %% tags=["hide-input"]
Markdown(
    f"*Percent over {common_photos(comparison)} photos, higher is better, best mean rank first; "
    f"`forward` and `backward` count the passes that one map takes.* {in_short(differences)}"
)

# %% [markdown]
# ROAD's curves show where the gap comes from, and RISE {cite}`rise` with its hundreds of passes
# joins for AD and IC:

# %%
parts = [f"vit_imagenette_val{part}.jsonl" for part in ("", "_ttame", "_rise")]
headers, records = read_together(*[reference(name) for name in parts])
plot_road(curves(records, "ROAD"), ["T-TAME", "Grad-CAM", "attention rollout",
                                    "Transformer attribution", "LeGrad", "random"])  # fmt: skip

# %% [markdown]
# *ROAD {cite}`road` on the transformer of ten classes: the share of photos that keep their class
# and the probability of the class, while pixels are removed. Bands are 95 % intervals.*

# %% tags=["hide-input"]
masked = [f"{metric} {share}%" for share in (50, 15) for metric in ("AD", "IC")]
long = scores(records)
look = long["score"].isin(masked) & ~long["method"].isin(BLIND)
words = {"Ten classes": in_short(paired_differences(long[look]))}
for name, kind in {"1,000 classes, Imagenette": "imagenette",
                   "1,000 classes, other kinds": "kinds"}.items():  # fmt: skip
    found = scores(read_results(reference(f"vit_hybrid_{kind}_val.jsonl"))[1])
    look = found["score"].isin(masked) & ~found["method"].isin(BLIND)
    words[name] = in_short(paired_differences(found[look]))
half = long[long["score"] == "AD 50%"].groupby("method")["value"].mean()
Markdown(
    "By AD and IC, against all other methods that look at the photo:\n\n"
    + "\n".join(f"- **{name}.** {text}" for name, text in words.items())
    + "\n\nAD and IC are what T-TAME is trained for, so a lead there is no surprise. And mind how "
    f"low the bar is: by AD at 50\u00a0% the random map has {half['random']:.1f}\u00a0%, Grad-CAM "
    f"{half['Grad-CAM']:.1f}\u00a0%. A transformer bridges scattered holes, so that noise hides less "
    "of a photo than a blob does."
)

# %% [markdown]
# ## What to do with the class token
#
# T-TAME's default *drops* the class token: the patches alone make the feature map. The alternative
# *multiplies* every patch by it, channel by channel, so that a channel counts as much as the class
# token holds of it. Explainers of the ten-class transformer were trained both ways.

# %%
multiplied = read_results(reference("vit_imagenette_val_cls.jsonl"))[1].assign(method="multiplied")
dropped = records[records["method"] == "T-TAME"].assign(method="dropped")
tokens_long = scores(pd.concat([dropped, multiplied], ignore_index=True))
kept = tokens_long[tokens_long["score"].isin(masked)]
handled = paired_differences(kept, "dropped")
plot_differences(handled, "dropping it")

# %% tags=["hide-input"]
sign = [1 if higher_is_better(score) else -1 for score in handled["score"]]
gained = handled[["difference", "low", "high"]].mul(sign, axis=0).assign(score=handled["score"])
said = ", ".join(
    f"{row.score} {row.difference:+.1f} ({min(row.low, row.high):+.1f} to "
    f"{max(row.low, row.high):+.1f})".replace("-", "\N{MINUS SIGN}")
    for row in gained.itertuples()
)
Markdown(
    "*Dropping the class token against multiplying by it, on the same photos: right of zero "
    f"dropping is better.*\n\nThe advantage of dropping, in percentage points: {said}. "
    + in_short(handled, "Dropping the class token")
)

# %% [markdown]
# ## Every number
#
# All means of the three measurements, how the ten-class transformer was trained, and the
# provenance.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show all means", "code_prompt_hide": "Hide the means"}
measured = {"Ten classes": records}
for name, kind in {"1,000 classes, Imagenette": "imagenette",
                   "1,000 classes, other kinds": "kinds"}.items():  # fmt: skip
    measured[name] = read_results(reference(f"vit_hybrid_{kind}_val.jsonl"))[1]
for name, found in measured.items():
    full = summary(found)
    full = full.loc[sorted(full.index, key=list(METHODS).index)]
    display(Markdown(f"**{name}**"))
    display(full.filter(regex="^(AD|IC)|^photos").style.format(precision=1, na_rep="–"))
    walked = found[found["road_morf"].notna()].groupby("method").size().rename("photos")
    order = full.filter(regex="^ROAD|tion$|forward|backward").join(walked)
    display(order.style.format(precision=1, na_rep="–").format(
        precision=0, subset=["forward", "backward", "photos"]))  # fmt: skip

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the distillation, and where the numbers come from", "code_prompt_hide": "Hide the distillation and the sources"}
record = training_record("vit_imagenette", "classifiers")
panels = {"train/loss": "distillation loss", "val/top1": "top-1 accuracy, %"}
display(plot_curves(training_curves(record), panels))
more = [*(f"vit_hybrid_{kind}_val.jsonl" for kind in ("imagenette", "kinds")),
        "vit_imagenette_val_cls.jsonl"]  # fmt: skip
sources = {name: read_results(reference(name))[0] for name in more}
sources |= {**dict(zip(parts, headers, strict=True)), **comparison.headers}
provenances({**sources, "ten classes": record, "1,000 classes": large}).style.set_properties(
    **{"text-align": "left"}
)

# %% [markdown]
# *Means in percent, in either table over the number of photos in its last column; where that is
# smaller, they are the first of the same photos. The curves are of the ten-class transformer's
# distillation.*
#
# ## What to remember
#
# - Patch tokens on their grid are feature maps; the class token has no place and is best left out.
# - Attention of the class token shows where a block looks, not why a class was chosen.
# - A map explains the answer, right or wrong; ask for the class you expected as well.
# - T-TAME is ahead at what it is trained for, masked photos. By other measures Transformer
#   attribution is ahead of it, at the price of a backward pass.
# - Compare with blind maps especially on transformers: holes scattered at random hurt them little.
#
# ## Exercises
#
# **1.** Ask rollout and T-TAME for two different classes of the same photo. Which map changes?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
other = torch.full_like(target, class_index("castle", explainer.classes))
twice = {f"{name}, {word}": build(name, explainer)(images[:1], classes[:1])
         for name in ("attention rollout", "T-TAME")
         for word, classes in (("its class", target), ("castle", other))}  # fmt: skip
plot_methods(raw[:1], twice, captions[:1])

# %% [markdown]
# **2.** Nothing here needs square images. Attach T-TAME to a ViT-Tiny for images of 160 × 224
# pixels. Which layers are chosen, and why not the last block?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
wide = ttame.attach("timm/vit_tiny_patch16_224", input_size=(160, 224), pretrained=False)
found = list_layers(wide.classifier, wide.spec.input_size)
# Behind the last block only the class token is read: its patch tokens have no say in the answer.
plot_layers({"ViT-Tiny at 160 × 224, random weights": found})

# %% [markdown]
# **3.** A mean is one number. How are the drops distributed, and which method has the fewest photos
# that it ruins?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
plot_drops(per_sample(records), ["T-TAME", "P-TAME", "Grad-CAM", "LeGrad", "RISE", "random"])
