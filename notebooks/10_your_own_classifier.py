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
# # Your own classifier
#
# [![Open in
# Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/10_your_own_classifier.ipynb)
#
# **You will learn**
#
# - to attach an attention mechanism to a classifier of your own, in one line;
# - to check which layers it reads, and to train it in a minute;
# - to save what you trained, and to load it again;
# - what the most common mistakes look like, and how to mend them.
#
# **It costs** about 50 seconds and 2 GB of memory on one CPU core; nothing is downloaded.
#
# **Model and photos.** The kind of network that most people have: an EfficientNet-Lite0
# {cite}`efficientnet`
# with ImageNet weights and a new head, for classes of one's own. It learns to tell animals from
# everything else on eleven of the sample photos; five others are held out.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
steps = None  # training steps of the mechanism; None: as the profile sets
seed = 0
photos = {  # sample photos by the folder that they are copied into
    "train/animal": ["cat", "crab", "german_shepherd", "giant_panda", "jaguars", "scarlet_macaw"],
    "train/other": ["castle", "citrus_fruits", "frying_pan", "mountains", "rocket"],
    "held_out/animal": ["hens", "honey_bee", "ring_tailed_lemurs"],
    "held_out/other": ["coffee", "suspension_bridge"],
}

# %% tags=["hide-input"]
import shutil
import tempfile
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from IPython.display import Markdown

import ttame
from ttame.classifiers.layers import list_layers
from ttame.companion.figures.maps import plot_layers
from ttame.companion.notebook_profiles import open_profile, quiet
from ttame.companion.shipped import provenance_table, read_families, reference
from ttame.data import image_folder, samples
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.tables import summary
from ttame.images import normalize, to_batch
from ttame.methods import build
from ttame.plotting import plot_methods
from ttame.training.fit import fit
from ttame.training.recipes import DECODED, ours

quiet()
setting = open_profile(profile)
steps = steps or setting.pick(quick=30, imagenette=120, imagenet=120)
runs = tempfile.TemporaryDirectory()
folder = Path(runs.name)
path = {path.stem: path for path in samples().paths}
for place, names in photos.items():
    (folder / place).mkdir(parents=True)
    for name in names:
        shutil.copy(path[name], folder / place)

# %% [markdown]
# ## A classifier to explain
#
# Replace this section by your own: anything that maps images to {term}`logits <Logits>`
# will do. Ours is made of a folder of photos with a subfolder for each class, and of a pretrained
# network that gets a head for two classes. Imports are in the folded cell above.

# %%
train, held_out = image_folder(folder / "train"), image_folder(folder / "held_out")
torch.manual_seed(seed)
model = ttame.load_backbone("tf_efficientnet_lite0").model
model.reset_classifier(2)

# %% [markdown]
# ## Attach
#
# One line. The mechanism reads the deepest feature map and refines it with a small decoder, as the
# explainer that ships with `ttame` does.

# %%
explainer = ttame.attach(model, "deepest", config=DECODED, classes=["animal", "other"])
spec = explainer.spec
print(f"reads     {', '.join(explainer.layers)}")
print(f"photos    {spec.input_size} pixels, mean {spec.mean}, std {spec.std}")
print(f"outputs   {', '.join(explainer.classes)} ({spec.activation})")

# %% [markdown]
# Check what it found out, for a wrong normalisation is easily overlooked. Networks that state these
# facts, as those of timm do, are believed. For anything that is neither stated nor found by a
# forward pass, `attach` asks. For the layers, a picture says more:

# %%
plot_layers({"EfficientNet-Lite0": list_layers(model, spec.input_size)})

# %% [markdown]
# *Every module whose output is a feature map, in order of execution; the lower, the coarser. The
# labelled ones end the last three resolutions: `"auto"` reads these three, `"deepest"` the last of
# them. Any other may be named. [Feature selection](02_feature_selection.ipynb) compares them.*
#
# ## Train
#
# First the new head, on features that are computed once; that is ordinary PyTorch.

# %%
images = normalize(to_batch(train.paths, spec), spec)
with torch.no_grad():
    features = model.forward_head(model.forward_features(images), pre_logits=True)
optimizer = torch.optim.AdamW(model.classifier.parameters(), lr=0.01)
for _ in range(100):
    optimizer.zero_grad()
    F.cross_entropy(model.classifier(features), torch.tensor(train.labels)).backward()
    optimizer.step()

# %% [markdown]
# Attaching makes a frozen copy of the classifier, so it is attached anew, now that it is
# trained. Then the mechanism learns from the classifier's own answers. It needs no labels.

# %%
untrained = ttame.attach(model, "deepest", config=DECODED, classes=["animal", "other"])
recipe = ours(steps=steps, batch_size=len(train), workers=0, seed=seed)
explainer = fit(untrained, train, recipe, folder / "run", name="animals", progress=False)
explained = explainer.explain(held_out.paths)

# %% tags=["remove-input"]
right = (explained.targets[:, 0] == torch.tensor(held_out.labels)).sum()
trained = sum(p.numel() for p in explainer.mechanism.parameters())
Markdown(
    f"The classifier is right on {right} of {len(held_out)} held-out photos. The mechanism has "
    f"{trained:,} parameters and took {explainer.record['steps']} steps."
)

# %%
images, targets = normalize(explained.images, spec), explained.targets[:, 0]
maps = {"untrained": untrained.explain(held_out.paths).maps, "trained": explained.maps}
maps["Grad-CAM"] = build("Grad-CAM", explainer)(images, targets)
rows = explained.probabilities().tolist()
titles = [f"{names[0]} {p[0]:.0%}" for names, p in zip(explained.names(), rows, strict=True)]
plot_methods(explained.images, maps, titles)

# %% [markdown]
# *Held-out photos with the predicted class: the map before training, the same after it, and that of
# Grad-CAM {cite}`gradcam`. Before training, heat lies anywhere. Afterwards it gathers on hens, bee,
# lemurs and cup, and on the leaves between the lemurs. "Other" has no object of its own, and on the
# bridge part of its map lies in the sky.*
#
# ## Is it any good?
#
# Mask each held-out photo by its map and ask the classifier again. Always keep a random map beside
# it.

# %%
methods = ("T-TAME", "Grad-CAM", "random")
scores = evaluate(explainer, held_out, folder / "scores.jsonl", methods=methods)
summary(scores)[["AD 100%", "AD 50%", "AD 15%"]].style.format(precision=1)

# %% [markdown]
# *{term}`Average Drop` (AD) at three shares of retained pixels, percent, lower is better. Five
# photos only show that the machinery works; for your own network, hold out a few hundred
# ([Evaluation](06_evaluation.ipynb) says how to read such tables).*
#
# ## Save and load
#
# One `safetensors` file holds the mechanism and its training record. The classifier stays yours and
# is passed along.

# %%
saved = explainer.save(folder / "animals.safetensors")
again = ttame.load(saved, model=model)
same = torch.equal(again.explain(held_out.paths).maps, explained.maps)
print(f"{saved.name}: {saved.stat().st_size / 1e6:.1f} MB, same maps after loading: {same}")

# %% [markdown]
# With other weights the maps would be nonsense, so the file refuses any classifier but the one that
# it was trained on:

# %%
other = ttame.load_backbone("tf_efficientnet_lite0").model
other.reset_classifier(2)
try:
    ttame.load(saved, model=other)
except ttame.TTameError as error:
    print(str(error).replace(f"{folder}/", ""))

# %% [markdown]
# ## What can go wrong
#
# What cannot be found out is not guessed. Six common mistakes, and what `attach` answers:

# %%
pool, head = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Linear(8, 2)
plain = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), pool, torch.nn.Flatten(), head)
one = timm.create_model("resnet10t", num_classes=1)
none = timm.create_model("resnet10t", num_classes=0)

# %%
mistakes = {
    "The module does not state the size of its images": (plain, {}),
    "It does not state their normalisation": (plain, {"input_size": (96, 96)}),
    "A layer is misspelt": (model, {"layers": ["block.6"]}),
    "A class has no name": (model, {"classes": ["animal"]}),
    "One output may mean several things": (one, {}),
    "The network has lost its head": (none, {}),
}

# %%
said = []
for mistake, (network, given) in mistakes.items():
    try:
        ttame.attach(network, **given)
    except ttame.TTameError as error:
        said.append(f"{mistake}:\n    {error}")
print("\n\n".join(said))

# %% [markdown]
# ## Networks of timm, torchvision and transformers
#
# Networks of timm {cite}`timm` and torchvision are known by name. For one with your own weights,
# `weights=` takes a state dict or a checkpoint, also a nested one, or one with the prefixes of
# wrappers; code in it is never run.
#
# ```python
# explainer = ttame.attach("timm/convnext_atto.d2_in1k")
# explainer = ttame.attach("torchvision/regnet_y_400mf")
# explainer = ttame.attach("timm/resnet50", weights="last.ckpt", classes={0: "cat", 1: "dog"})
# ```
#
# Image classifiers of Hugging Face's `transformers` are attached as they are, also under PEFT.
# Layers and class names come from the model; size, crop and normalisation from its processor.
#
# ```python
# from transformers import AutoImageProcessor, AutoModelForImageClassification
#
# name = "microsoft/swin-tiny-patch4-window7-224"
# model = AutoModelForImageClassification.from_pretrained(name)
# explainer = ttame.attach(model, processor=AutoImageProcessor.from_pretrained(name))
# ```
#
# A model of images and texts, such as CLIP, becomes a classifier once the embeddings of a few texts
# are computed. Its logits are scaled cosines.
#
# ```python
# class ZeroShot(nn.Module):
#     def __init__(self, clip, texts):  # texts: their embeddings, (K, D)
#         super().__init__()
#         self.vision, self.project = clip.vision_model, clip.visual_projection
#         self.scale = clip.logit_scale.exp().item()
#         self.register_buffer("texts", F.normalize(texts, dim=1))
#
#     def forward(self, images):
#         embedded = F.normalize(self.project(self.vision(images).pooler_output), dim=1)
#         return self.scale * embedded @ self.texts.T
#
#
# explainer = ttame.attach(ZeroShot(clip, texts), classes=names, processor=processor)
# ```
#
# Here `clip` is a `CLIPModel`, `processor` its `CLIPProcessor` and `names` the texts:
#
# ```python
# with torch.no_grad():
#     words = processor.tokenizer(names, padding=True, return_tensors="pt")
#     texts = clip.text_projection(clip.text_model(**words).pooler_output)
# ```
#
# ## Which networks work
#
# Anything that maps images to logits and has feature maps on the way: convolutional networks and
# transformers, channels first or last, images of any size and number of channels, any number of
# classes. A network without usable feature maps can borrow those of another one
# (`features="tf_efficientnet_lite0"`), as in P-TAME {cite}`ptame`.

# %% tags=["remove-input"]
origin, found = read_families(reference("families.json"))
library = found.index.str.partition("/").get_level_values(0)
passed = found["passed"].groupby(library).agg(["sum", "count"])
parts = ", ".join(f"{row['sum']} of {row['count']} of {name}" for name, row in passed.iterrows())
Markdown(
    "This is checked on a small member of every model family, with random weights: suitable layers are found, an explanation takes one forward pass, a training step changes the "
    "mechanism and not the classifier, and a saved explainer comes back with the same maps. "
    f"{found['passed'].sum()} of {len(found)} families pass ({parts}). It says nothing about how "
    "good the maps are."
)

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show all families and their layers", "code_prompt_hide": "Hide the families"}
listed = found.sort_values("passed", kind="stable")  # those that fail stand first
listed["layers"] = [
    ", ".join(tap["name"] for tap in taps) if passed else reason
    for taps, passed, reason in zip(
        listed["layers"], listed["passed"], listed["reason"], strict=True
    )
]
small = {"text-align": "left", "font-size": "75%", "overflow-wrap": "anywhere"}
listed[["model", "layers"]].style.set_properties(**small)

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show where these numbers come from", "code_prompt_hide": "Hide where these numbers come from"}
provenance_table(origin).style

# %% [markdown]
# ## What to remember
#
# - `ttame.attach(model)` is enough for networks that state what they expect; the error says what is
#   missing for any other.
# - Train the classifier first, then attach: the explainer holds a frozen copy.
# - The mechanism learns from the classifier's answers, so photos need no labels.
# - Save the explainer beside the classifier's weights. It works with these and no others.
# - Score it on held-out photos, with a random map beside it.
#
# [The recipes](../book/recipes.md) have the same in ten lines, and from the command line.
#
# ## Exercises
#
# **1.** Training showed no people. What does the classifier make of the astronaut and the
# photographer, and what in the photo does it go by?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
explainer.explain([path["astronaut"], path["photographer"]], top_k=2).plot()

# %% [markdown]
# **2.** Attach to three layers instead of one. How many parameters would have to be trained?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
wide = ttame.attach(model, "auto", config=DECODED, classes=["animal", "other"])
count = sum(p.numel() for p in wide.mechanism.parameters())
print(f"{', '.join(wide.layers)}: {count:,} parameters, in place of {trained:,}")

# %% [markdown]
# **3.** Mend the second mistake above: attach to `plain` for images of 96 × 96 pixels, normalised
# with a mean and a standard deviation of one half.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
mended = ttame.attach(plain, input_size=(96, 96), mean=0.5, std=0.5)
height, width = mended.explain(path["cat"]).maps.shape[-2:]
print(f"reads layer {mended.layers[0]}, a map of {height} × {width}")
runs.cleanup()
