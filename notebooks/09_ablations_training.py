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
# # Ablations of objective and training
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/09_ablations_training.ipynb)
#
# **You will learn**
#
# - which terms of the objective carry the training, and how carefully they must be weighed;
# - why a masked photo can be black or grey, and why scores of the two must not be compared;
# - which single choice gains more than any other: where the {term}`fusion <Fusion>` starts;
# - how little is left to gain by changing our recipe once that choice is made.
#
# **It costs** about 30 seconds and 1.5 GB of memory on one CPU core; nothing is downloaded. The
# trainings are not repeated here, their records are read.
#
# **Model and photos.** EfficientNet-Lite0 {cite}`efficientnet` with its ImageNet weights. The study
# is that of the [chapter before](08_ablations_mechanism.ipynb), at 128 pixels on Imagenette
# {cite}`imagenette`; a second one varies our recipe at 224 pixels, on photos of many kinds.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
records = None  # folder with the study's records; None: those that ship
resamples = 1000  # of photos and seeds, for intervals
shown = ["german_shepherd", "ring_tailed_lemurs", "scarlet_macaw"]  # sample photos

# %% tags=["hide-input"]
from dataclasses import replace

import pandas as pd
import torch
from IPython.display import Markdown, display

import ttame
from ttame.companion.figures.studies import plot_axis, plot_ranking, show_axis
from ttame.companion.notebook_profiles import open_profile, quiet
from ttame.companion.shipped import provenances, reference
from ttame.companion.studies.records import read_runs, study_provenance, unfinished
from ttame.companion.studies.references import read_references
from ttame.companion.studies.study import read_study
from ttame.companion.studies.tables import (
    axis_runs,
    combined,
    differences,
    mean_scores,
    run_scores,
)
from ttame.companion.studies.verdicts import ranking
from ttame.data import samples
from ttame.files import shipped
from ttame.images import denormalize, normalize, to_batch
from ttame.masking import normalize_maps
from ttame.plotting import plot_grid, plot_methods
from ttame.records import read_results

open_profile(profile)
quiet()

# %%
study = read_study(shipped("studies") / "ablations.toml")
folder = records or shipped("results") / "ablations"
runs = read_runs(folder)
long = run_scores(runs)
judged = long[long["percentage"] < 100]
lines = read_references(["size128_val.jsonl"], set(runs["photo"]))
lines = lines[~lines["score"].str.contains("100")]

# %% [markdown]
# ## Terms of the objective
#
# The [objective](../book/method.md) asks three things of a mask: that the classifier keeps its
# answer ({term}`cross-entropy <Cross-entropy term>`), that it shows little
# ({term}`area <Area term>`), and that it is smooth ({term}`variation <Variation term>`). What if
# one is left out?

# %%
show_axis(judged, study, "loss terms", lines, resamples)

# %% [markdown]
# *How to read all figures of this chapter. Filled marks are means over photos and seeds with 95 %
# intervals; hollow marks are single seeds. The orange line is Grad-CAM, the grey ones are maps that
# look at nothing. The sentence below a figure sums it up: IC minus AD, averaged over 50 and 15 % of
# retained pixels, paired photo by photo against the row that changes nothing, in percentage points
# with a 95 % interval. "No difference" means that the interval holds zero.*
#
# The variation is the term that matters, with the area or without. Without it nothing asks
# neighbouring cells of the map to agree.
#
# ## Weights and exponent
#
# Each term's weight ten times smaller and ten times larger than published, and the exponent of the
# area.

# %%
for axis in ("cross-entropy", "area", "variation"):
    show_axis(judged, study, f"weight of the {axis}", lines, resamples)
show_axis(judged, study, "area exponent", lines, resamples)

# %% [markdown]
# *From above: weight of the cross-entropy, of the area, of the variation, and the area's exponent;
# the published value comes first.*
#
# The published weights lie on a plateau that is flat, but not endless: ten times less or more of
# the cross-entropy is too much, and so is ten times the area. A larger weight of the variation
# would, if anything, be better. The exponent hardly matters.
#
# ## Which maps are regularised, and how
#
# For every photo, the published code regularises the maps of all labels of its batch, and sums the
# variation over pixels, so that this term grows with batch size and resolution. The alternatives
# are the photo's own map alone, and a mean.

# %%
show_axis(judged, study, "regularised maps", lines, resamples)
show_axis(judged, study, "reduction of the variation", lines, resamples)

# %% [markdown]
# *Above, which maps are regularised; below, sum against mean.*
#
# Regularising the photo's own map alone is worse. The other labels' maps, of classes that the photo
# does not show, teach it what does not count as support. With a start from the classifier's own
# gradients this difference is gone, as [little data](05_little_data.ipynb) shows.
#
# ## Labels
#
# Should training explain the classifier's own answer ({term}`model truth <Model truth>`), or the
# class that the photo belongs to ({term}`ground truth <Ground truth>`)?

# %%
show_axis(judged, study, "labels", lines, resamples)

# %% [markdown]
# *Trained for the model truth and for the ground truth; measured, in both cases, for the class that
# the classifier predicts.*
#
# The two labels agree on most of these photos, and so do the maps. The model truth explains what
# the classifier answers, mistakes included, and needs no labels.
#
# ## Masking space
#
# A mask can multiply the photo as it is, so that what is hidden turns black, or the normalised
# photo, so that it turns grey, the mean colour of the classifier's training photos. To a classifier
# these are two different pictures:

# %% tags=["hide-input"]
explainer = ttame.load("tf_efficientnet_lite0")
paths = {path.stem: path for path in samples().paths}
raw = to_batch([paths[name] for name in shown], explainer.spec)
images = normalize(raw, explainer.spec)
with torch.inference_mode():
    probability, target = explainer.classifier(images).softmax(dim=1).max(dim=1)
    masks = normalize_maps(explainer(images, target[:, None])[2])
    hidden = {}
    for title, space in (("black", "raw"), ("grey", "normalized")):
        spec = replace(explainer.spec, space=space)
        masked = spec.mask(images, masks, 0.15)
        kept = explainer.classifier(masked).softmax(dim=1).gather(1, target[:, None])[:, 0]
        hidden[title] = denormalize(masked, spec), kept
cells = []
for index in (0, 2):
    cells.append((f"whole\np = {100 * probability[index]:.0f}\u00a0%", raw[index]))
    cells += [(f"{title}\np' = {100 * kept[index]:.0f}\u00a0%", found[index])
              for title, (found, kept) in hidden.items()]  # fmt: skip
plot_grid([cells], what="Two photos, whole and masked in two spaces, with the class's probability")

# %% [markdown]
# *Two sample photos, whole and with 15 % of their pixels retained by the same map of T-TAME (our
# recipe), in either masking space. Above each, the probability of the predicted class.*
#
# Training and measurement may each use either {term}`space <Masking space>`; the published code
# trains its transformer in one and measures it in the other.

# %%
spaces = axis_runs(judged, study.variants, "masking space")
plot_axis(spaces)

# %% [markdown]
# *Without lines, since those were measured on grey alone. Rows that are measured in different
# spaces answer different questions: compare the first two with each other, and the last two.*

# %% tags=["remove-input"]
said = []
for colour, space in (("grey", "normalised"), ("black", "raw")):
    rows = [f"trained {trained}, measured {space}" for trained in ("raw", "normalised")]
    found = differences(combined(spaces), *rows, resamples).iloc[0]
    gain, low, high = (f"{found[name]:+.1f}" for name in ("difference", "low", "high"))
    shown = "no difference is shown" if found["verdict"] == "open" else f"**{found['verdict']}**"
    said.append(f"measured on {colour}, {shown} ({gain}, {low} to {high})")
text = "; ".join(said).replace("-", "\N{MINUS SIGN}")
Markdown(f"Trained on black instead of grey, by IC minus AD: {text}.")

# %% [markdown]
# Scores on black are worse than on grey for every mechanism here, which says something about the
# classifier and nothing about the maps. Scores of two spaces must never be compared.
#
# ## Where the fusion starts
#
# The published fusion starts from random numbers. It can also start from the classifier's own
# gradients, with rows that are {term}`free <Free rows>` to move apart or {term}`tied <Tied rows>`
# to each other ([method](../book/method.md)).

# %%
show_axis(judged, study, "start of the fusion", lines, resamples)

# %% [markdown]
# *Random start, and two starts from the classifier's gradients.*
#
# This is the largest lever of the whole study: a start from the classifier's gradients gains more
# than training four times as long from a random one. Tying the rows changes nothing that shows on
# these ten classes, which training shows; it is what carries maps over to classes that training
# never shows ([little data](05_little_data.ipynb)).
#
# The study kept no weights, but explainers of both kinds ship, trained fully at 224 pixels:

# %%
names = {
    "published, free rows": "tf_efficientnet_lite0_published",
    "published, tied rows": "tf_efficientnet_lite0_published_tied",
    "our recipe, tied rows": "tf_efficientnet_lite0",
}
with torch.inference_mode():
    maps = {title: ttame.load(name)(images, target[:, None])[2]
            for title, name in names.items()}  # fmt: skip

# %% tags=["hide-input"]
captions = [explainer.classes[index].split(",")[0] for index in target.tolist()]
plot_methods(raw, maps, captions)

# %% [markdown]
# *Maps of the predicted class. The first two columns differ in their rows alone: T-TAME (as
# published) and the same with tied rows, trained on the same photos for as many steps.*
#
# ## Training length

# %%
show_axis(judged, study, "training length", lines, resamples)

# %% [markdown]
# *Each length has a learning-rate schedule of its own.*
#
# More steps help, with diminishing returns. None of these lengths is near the papers' hundreds of thousands.
#
# ## What makes our recipe learn
#
# The second study starts where the first one ends: T-TAME (our recipe), one pass over photos of
# many kinds at full resolution, measured on photos of kinds that training never shows. The rows of
# the first figure were trained on a GPU, two of them once more on CPU cores, all others on CPU cores.
#
# What is changed first: three layers instead of one; training on mosaics of four photos, so that the
# map has to find the right one; a second {term}`target class <Target class>` for each photo; and a
# term by which the complement, the photo without what the mask keeps, must lose the class.

# %%
learning = read_study(shipped("studies") / "learning.toml")
found = read_runs(shipped("results") / "learning")
learned = run_scores(found)
cams = read_references(["kinds_val_cam.jsonl"], set(found["photo"]))
cams = cams[~cams["score"].str.contains("100")]
show_axis(learned[learned["percentage"] < 100], learning, "learning", cams, resamples)

# %% tags=["remove-input"]
half = axis_runs(learned[learned["score"] == "AD 50%"], learning.variants, "learning")
half = half.groupby("method")["value"].mean()
other = cams[cams["score"] == "AD 50%"].groupby("method")["value"].mean()
Markdown(
    f"*The lines are measured on the same photos.* By AD at 50 % all rows lie between "
    f"{half.min():.1f} and {half.max():.1f} %; Grad-CAM has {other['Grad-CAM']:.1f} %, and the "
    f"random map {other['random']:.1f} %. Whichever row had been chosen for the recipe, its maps "
    "would have been about as good."
)

# %% [markdown]
# ### Learning rate and length
#
# Our recipe lets the rows of the {term}`fusion <Fusion>`, which start from the classifier's
# gradients, learn twenty times more slowly than the rest. Here they learn as fast as the rest; or
# the training takes four times as long.

# %%
show_axis(learned[learned["percentage"] < 100], learning, "rate and length", cams, resamples)

# %% [markdown]
# ### What the mechanism reads
#
# Our recipe reads the last feature map before the classifier's head, as it is. Here it has a
# {term}`feature branch <Feature branch>` of its own, or it reads the layer after that map.

# %%
show_axis(learned[learned["percentage"] < 100], learning, "mechanism", cams, resamples)

# %% [markdown]
# ### What the objective asks
#
# Two changes: a rise of the probability counts without limit; masked pixels are blurred in training
# instead of taking the mean colour. Scores are measured with the mean colour all the same.

# %%
show_axis(learned[learned["percentage"] < 100], learning, "objective", cams, resamples)

# %% [markdown]
# ## The levers, largest first
#
# All axes of both chapters in one figure, of which only the ends are worth a look.

# %%
ranked = ranking(judged, study, resamples)
ranked = ranked[ranked["axis"] != "masking space"]  # scores of two spaces are not comparable
plot_ranking(pd.concat([ranked.head(8), ranked.tail(8)]))

# %% [markdown]
# *The eight largest gains and the eight largest losses against the row of the same axis that
# changes nothing, with 95 % intervals over photos and seeds. The budget is short, so what is better
# here learns faster, and need not be better in the end.*
#
# ## Every number
#
# The rows, the means behind the figures, and where the records come from.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show all means", "code_prompt_hide": "Hide the means"}
axes = ["loss terms", "weight of the cross-entropy", "weight of the area",
        "weight of the variation", "area exponent", "regularised maps",
        "reduction of the variation", "labels", "masking space", "start of the fusion",
        "training length"]  # fmt: skip
for axis in axes:
    display(Markdown(f"**{axis.capitalize()}**"))
    display(mean_scores(axis_runs(long, study.variants, axis)).style.format(precision=1))
for axis in learning.axes:
    display(Markdown(f"**{axis.capitalize()}**, by our recipe"))
    display(mean_scores(axis_runs(learned, learning.variants, axis)).style.format(precision=1))

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show where the numbers come from", "code_prompt_hide": "Hide where the numbers come from"}
for title, planned, place in (("Ablations", study, folder),
                              ("Learning", learning, shipped("results") / "learning")):  # fmt: skip
    left = unfinished(planned, place)
    display(Markdown(f"**{title}**: {len(planned.runs) - len(left)} of {len(planned.runs)} runs"))
    if len(left):
        display(left)
    display(study_provenance(place).style.set_properties(**{"text-align": "left"}))
sources = {name: read_results(reference(name))[0]
           for name in ("size128_val.jsonl", "kinds_val_cam.jsonl")}  # fmt: skip
provenances(sources).style.set_properties(**{"text-align": "left"})

# %% [markdown]
# *Means in percent; planned runs without a record would be listed.*
#
# ## What to remember
#
# - Start from what the classifier knows. No weight, term or schedule gains as much.
# - Of the objective's regularisers, the variation carries the training. Some weights may be wrong by
#   ten times, others may not.
# - Black and grey masks ask different questions. State the masking space, and never compare scores
#   across it.
# - Around a recipe that works, most changes cannot be told from chance. A single run that "helps"
#   is no finding.
#
# ## Exercises
#
# **1.** Is the gain of the start larger than that of four times the steps, once the intervals are
# looked at?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
chosen = ranked["variant"].isin(["free rows, from the classifier", "400 steps"])
columns = ["difference", "low", "high", "seeds"]
ranked[chosen].set_index("variant")[columns].style.format(precision=1)

# %% [markdown]
# **2.** How many of the gains and losses would you expect by chance alone, if no variant differed
# from its default, and how many are there?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
told = (ranked["verdict"] != "open").sum()
print(f"expected by chance: {0.05 * len(ranked):.1f} of {len(ranked)}; found: {told}")

# %% [markdown]
# **3.** Keep a quarter of the pixels instead of 15 %. What does the classifier say, in either space?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
with torch.inference_mode():
    for colour, space in (("black", "raw"), ("grey", "normalized")):
        masked = replace(explainer.spec, space=space).mask(images, masks, 0.25)
        kept = explainer.classifier(masked).softmax(dim=1).gather(1, target[:, None])[:, 0]
        answers = zip(captions, kept, strict=True)
        print(f"{colour}: " + ", ".join(f"{name} {100 * value:.0f} %" for name, value in answers))
