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
# # Evaluation
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/06_evaluation.ipynb)
#
# **Shows** how explanation maps are scored: the committed reference results of many methods on
# the same photos, where T-TAME wins and where it loses, a small live run beside them, and what
# these scores cannot see.
#
# **Costs** about three minutes on two CPU cores in profile `quick`; nothing is downloaded.
#
# **Data and model.** EfficientNet-Lite0 with its ImageNet weights and the shipped explainer. The
# reference results come from committed files; the live part runs on a few photos of Imagenette's
# validation split {cite}`imagenette` where that is available, else on the sample photos; the
# output says which.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
photos = None  # of the live run with AD and IC; None: as the profile sets
few = 4  # photos for all scores, the pictures and the sanity check
seed = 0

# %% [markdown]
# ## What is measured
#
# Nobody knows the right explanation map. So scores change the photo by the map and ask the
# classifier again: they say whether it *uses* what the map shows. $p$ is the probability of the
# predicted class on the whole photo, $p'$ that on the changed one. [The method
# page](../book/method.md) gives the formulas.
#
# **Masking: AD, IC and AG.** The photo is multiplied by its map, of which only the top 100, 50 or
# 15 % of pixels are retained.
#
# - **Average Drop** (AD, lower is better): by how much of itself the probability falls, where it
#   falls, $\max(0, p - p')/p$.
# - **Increase in Confidence** (IC, higher is better): the share of photos for which it rises,
#   $p'>p$; a rise of a millionth counts as much as a large one {cite}`gradcampp`.
# - **Average Gain** (AG, higher is better): how much of the missing certainty the mask supplies,
#   $\max(0, p' - p)/(1 - p)$; it was proposed because AD alone is easily fooled {cite}`opticam`.
#
# They tell whether the retained part is enough for the answer. They depend on the values of the
# map, not only on their order, and on the masking space: hidden pixels are black in `raw`, the
# mean colour in `normalized`. All rows of a table share one space, which its provenance states.
#
# **Degradation: ROAD** {cite}`road`. Pixels are removed in the map's order and the holes filled
# from what is left around them, so that a hole tells little by its shape. With the most relevant
# pixels first (**MoRF**, lower is better) a good map makes the classifier lose its answer early,
# with the least relevant first (**LeRF**, higher is better) late. The answer is followed in two
# ways: the share of photos that keep their class, as in the papers, and the probability of the
# class. Only the order of the pixels counts; a score is the area under the curve between 10 and
# 90 % removed.
#
# **Insertion and deletion** {cite}`rise`. Insertion (higher is better) starts from the blurred
# photo and brings the most relevant pixels back; deletion (lower is better) replaces them by the
# mean colour, in whatever space the explainer masks. Again only the order counts. The grey
# patches are unlike any photo the classifier has seen, so that deletion also rewards maps that
# find out what disturbs it.
#
# **Details that change numbers.** The target is the classifier's own prediction, right or wrong.
# Every map is scaled for its photo alone. Exactly the stated share of pixels is retained or
# removed, and ties are broken by a seeded shuffle: a constant map picks its pixels by lot. A
# *degenerate* map ranks nothing (it is constant, or not finite); it is scored all the same and
# counted in the tables.
#
# **Regions one by one: SDS and SaCo.** SDS {cite}`sds` deletes each cell of a 4 × 4 grid once and
# correlates what the class loses with the map's sums per cell; SaCo {cite}`saco` does so with
# groups of pixels of like salience. For both, higher is better and chance is 0.
#
# **Location.** The grid pointing game {cite}`coda_nets` lays 2 × 2 photos of different classes side
# by side: what share of the map is on the photo of its class? Chance is 25 %, higher is better.
# Imagenette has no boxes for the pointing game on objects, which asks where the object is, not
# where the classifier looks (`ttame.evaluation.localization`).
#
# ## The reference results

# %%
import tempfile
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Markdown

import ttame
from ttame.companion.figures.agreement import plot_agreement
from ttame.companion.figures.curves import (
    plot_drops,
    plot_insertion,
    plot_metrics,
    plot_probabilities,
    plot_road,
)
from ttame.companion.figures.masked import plot_road_series
from ttame.companion.figures.scores import plot_costs, plot_differences, plot_randomization
from ttame.companion.headline import MEASURES, SETS, headline, read_comparison
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import provenance_table, read_benchmark, reference
from ttame.evaluation.agreement import BLIND, blind_margins, rank_agreement, unwinnable
from ttame.evaluation.comparison import in_words, paired_differences
from ttame.evaluation.confidence import higher_is_better
from ttame.evaluation.evaluate import METRICS, evaluate
from ttame.evaluation.randomization import sanity_check
from ttame.evaluation.tables import curves, intervals, per_sample, read_together, scores, summary
from ttame.images import normalize, to_batch
from ttame.methods import DEFAULT_METHODS, METHODS, build
from ttame.plotting import plot_methods
from ttame.records import read_results

kinds = ("", "_more", "_published", "_lcam", "_cam", "_ablation", "_other", "_score", "_rise")
names = [f"imagenette_val{kind}.jsonl" for kind in kinds]
headers, records = read_together(*[reference(name) for name in names])
origins = [provenance_table(header)["provenance"] for header in headers]
origin = pd.concat(origins, axis=1, keys=names)
origin.loc["methods"] = [", ".join(header["config"]["methods"]) for header in headers]
origin.style.format(na_rep="–")

# %% [markdown]
# *Where the reference results come from, a file a column. The slowest methods saw only the first
# of the same photos; their settings stand beside. ROAD, insertion and deletion were measured on
# the first photos only, as the table says, for all methods alike.*

# %%
blind = list(BLIND)  # look at nothing in the photo
order = sorted(records["method"].unique(), key=list(METHODS).index)
seen = records.groupby("method")["photo"].nunique()
complete = [name for name in order if seen[name] == seen.max()]
everyone = records.groupby("photo")["method"].transform("nunique") == len(order)
print(f"{len(order)} methods; {len(complete)} of them on {seen.max()} photos")
print(f"all of them on {records.loc[everyone, 'photo'].nunique()} photos")
walked = records.loc[records["road_morf"].notna(), "photo"].nunique()
print(f"ROAD, insertion and deletion: {walked} photos")

# %%
main = records[records["method"].isin(complete)]
table = summary(main).loc[complete].drop(columns="ms")
quality = [name for name in table if name.startswith(("AD", "IC", "ROAD")) or "tion" in name]
rising = [name for name in quality if higher_is_better(name)]
falling = [name for name in quality if name not in rising]
benchmark = read_benchmark(reference("benchmark.json"))
costs = pd.DataFrame(benchmark["methods"]).set_index("method")
# RISE was timed at its default number of masks; its cost is linear in them.
masks = records.loc[records["method"] == "RISE", "forward"].mean()
costs.loc["RISE", ["ms", "ratio"]] *= masks / costs.loc["RISE", "forward"]
looking = [name for name in complete if name not in blind]
(
    table.join(costs["ms"])
    .style.format(precision=1, na_rep="–")
    .highlight_max(subset=(looking, rising), props="font-weight: bold")
    .highlight_min(subset=(looking, falling), props="font-weight: bold")
)

# %% [markdown]
# *Means over the photos, in percent, in the papers' layout: T-TAME first, then the others by
# family, at the end the maps that look at nothing. `T-TAME` is the explainer that ships, by our
# recipe; `T-TAME (published)` is the papers' mechanism with free rows and their objective, trained
# on the same photos, by AdamW because SGD would need many more steps, and `with tied rows` the same
# but for its rows; `T-TAME (refined)` takes
# four gradient steps per photo from T-TAME's own map. Bold: the best
# mean of a column among methods that look at the photo. ROAD: area under the curve of the share of
# photos that keep their class. `forward` and `backward` count the passes of the classifier that a
# map takes, `ms` is its time for one photo alone, from the benchmark; a dash: not timed. `photos`
# counts those of AD and IC; ROAD, insertion and deletion stand on the first of them, as printed
# above.*

# %%
together = summary(records[everyone]).loc[order]
among = [name for name in order if name not in blind]
(
    together[[*quality, "photos", "degenerate", "forward", "backward"]]
    .join(costs["ms"])
    .style.format(precision=1, na_rep="–")
    .highlight_max(subset=(among, rising), props="font-weight: bold")
    .highlight_min(subset=(among, falling), props="font-weight: bold")
)

# %% [markdown]
# *The same for all methods, the slow ones included, on the photos that every one of them saw.
# Rows of this table compare with each other; with those of the table above they do not.*
#
# ### How sure the means are

# %%
bounds = intervals(records)
bounds["shown"] = [
    f"{mean:.1f} ({low:.1f}\u00a0to\u00a0{high:.1f})"
    for mean, low, high in zip(bounds["mean"], bounds["low"], bounds["high"], strict=True)
]
spread = bounds.pivot(index="method", columns="score", values="shown").loc[order]
spread = spread[bounds["score"].unique()].rename_axis(index=None, columns=None)
spread.filter(regex="%")

# %%
spread.filter(regex="ROAD|tion")

# %% [markdown]
# *Means in percent, in brackets the 95 % bootstrap interval over photos; every method on all
# photos that it saw. Intervals of two methods may overlap although one is better on nearly every
# photo: for a comparison see the paired differences below.*
#
# ### Curves
#
# In colour are T-TAME, Grad-CAM, the random map and the four methods with the best mean rank over
# the columns of the first table; which these are is computed, too.

# %%
ranks = table.loc[looking, falling].rank().join(table.loc[looking, rising].rank(ascending=False))
leading = ranks.mean(axis=1).nsmallest(4).index
highlight = list(dict.fromkeys(["T-TAME", "Grad-CAM", *leading, "random"]))
plot_road(curves(main, "ROAD"), highlight)

# %% [markdown]
# *ROAD on the photos of the first table. Above, the share of photos that keep their class; below,
# the probability of the class. Bands are 95 % intervals over photos. The classifier may lose its
# answer because the imputed photo looks strange, so that even the random map's curve falls: what
# counts is the distance from that.*

# %%
plot_insertion(curves(main, "insertion/deletion"), highlight)

# %% [markdown]
# *Insertion and deletion on the same photos: the probability of the class while the most relevant
# pixels come back into the blurred photo, or give way to the mean colour.*

# %%
plot_drops(per_sample(main), highlight)

# %% [markdown]
# *Distribution of the drop: a curve gives the share of photos whose probability drops by at most
# that much, so that higher is better. A good method lifts the left end, where the answer is kept
# whole; means are moved most by the right end, where it is lost.*
#
# ## What quality costs

# %%
together["ROAD gap"] = together["ROAD LeRF"] - together["ROAD MoRF"]
together["time"] = costs["ratio"]
plot_costs(
    together,
    cost="time",
    scores={"AD 50%": "AD at 50 %", "ROAD gap": "ROAD, LeRF less MoRF"},
    xlabel="time for one photo, in plain forward passes",
    controls=blind,
)

# %% [markdown]
# *Cost, on a logarithmic axis, against two scores, for the photos that all methods saw. The time
# of one photo alone is divided by that of the bare classifier, on the same machine. Hollow: maps
# that look at nothing. Training an attention mechanism beforehand is not in these times; it is
# done once for a classifier.*

# %%
road = benchmark["road"]
print(
    f"ROAD's {2 * len(road['levels'])} imputed images of a photo: {road['ours_seconds']:.2f} s "
    f"here, {road['library_seconds']:.2f} s in pytorch-grad-cam, {road['ratio']:.1f} times; "
    f"largest difference {road['largest_difference']:.0e} of the pixels' range, "
    f"{road['largest_probability_difference']:.0e} of the class's probability"
)

# %% [markdown]
# *What the measuring costs: the imputation of ROAD against the sparse solver that is usual for it,
# on the same photos in the same process.*
#
# ## Where T-TAME wins, and where it loses
#
# Methods that saw the same photos are compared photo by photo, which leaves out what makes a
# photo hard for all of them.

# %%
long = scores(records)
differences = paired_differences(long[long["score"].isin(quality)])
differences = differences.set_index("against").loc[order[1:]].reset_index()
plot_differences(differences, scores=quality)

# %% [markdown]
# *Mean paired difference between T-TAME and each other method on the photos that both saw, signed
# so that right of zero T-TAME is better, with 95 % bootstrap intervals over photos. Where an
# interval holds zero, these photos do not tell the two apart: the verdict is open.*
#
# In words, computed from these intervals:

# %%
Markdown(in_words(differences))

# %%
pd.crosstab(differences["score"], differences["verdict"]).reindex(quality)

# %% [markdown]
# *Against how many methods T-TAME is better, worse, or not told apart, one row per score. Nothing
# is corrected for the number of comparisons: where methods do not differ at all, about one interval
# in twenty leaves zero out by chance. `differences` also holds the p-value of Wilcoxon's
# signed-rank test for each.*
#
# All this holds for one classifier and for photos of classes that the explainer saw in training.
#
# ## Photos of other kinds
#
# The same classifier and explainers on 500 photos of 114 categories of Caltech-101 and of
# ImageNet's detection set, none of which was seen in training: further from home, and nearer to
# what people bring.

# %%
other_names = [f"kinds_val{kind}.jsonl" for kind in ("", "_published", "_cam")]
other_headers, other = read_together(*[reference(name) for name in other_names])
other_order = sorted(other["method"].unique(), key=list(METHODS).index)
other_table = summary(other).loc[other_order].drop(columns="ms")
other_looking = [name for name in other_order if name not in blind]
(
    other_table.style.format(precision=1, na_rep="–")
    .highlight_max(subset=(other_looking, rising), props="font-weight: bold")
    .highlight_min(subset=(other_looking, falling), props="font-weight: bold")
)

# %% [markdown]
# *Means over the photos, in percent. `Grad-CAM (saturated)` has Grad-CAM's ranks and the values
# with which T-TAME's decoder starts: what it gains over Grad-CAM is due to values alone. The
# published mechanism saw the same photos in training, L-CAM Imagenette alone.*

# %%
other_long = scores(other)
other_differences = paired_differences(other_long[other_long["score"].isin(quality)])
other_differences = other_differences.set_index("against").loc[other_order[1:]].reset_index()
plot_differences(other_differences, scores=quality)

# %% [markdown]
# *Paired differences as above, on photos of other kinds.*

# %%
Markdown(in_words(other_differences))

# %%
pd.concat(
    [provenance_table(header)["provenance"] for header in other_headers], axis=1, keys=other_names
).style.format(na_rep="–")

# %% [markdown]
# ## A test of the tests
#
# A metric by which a map comes first that looks at neither photo nor class ranks methods by
# something else than what they explain. So every metric is asked about the same photos of every
# method, for EfficientNet-Lite0 on both sets of photos and for the transformer:

# %%
comparisons = {name: read_comparison(name) for name in SETS}
whole = {name: found.complete() for name, found in comparisons.items()}
margins = {name: blind_margins(found) for name, found in whole.items()}
agreement = {
    name: rank_agreement(found[~found["method"].isin(blind)]) for name, found in whole.items()
}
plot_agreement(margins, agreement)

# %% [markdown]
# *Above: the best blind map less the best method that looks, paired by photo, signed so that right
# of zero the blind map is better, with 95 % bootstrap intervals over photos; beside it the blind
# map's rank among all methods. Below: Spearman's correlation of how two metrics rank the methods
# that look, red where they agree; a number where the 95 % bootstrap interval over photos leaves
# zero out. `ROAD gap` is LeRF less MoRF. Grid pointing was measured on mosaics for
# EfficientNet-Lite0 on Imagenette alone.*

# %%
Markdown(f"No blind map wins or ties, in any column: {', '.join(unwinnable(*margins.values()))}.")

# %% [markdown]
# **Which numbers to trust for what.** Do not rank methods by AD at 100 %, which the all-ones map
# wins everywhere; by IC at 100 %, where Fake-CAM is ahead of nearly all methods; by ROAD's LeRF
# alone, where the all-ones map comes first on both sets of photos; or by deletion, where on other
# kinds of photos Fake-CAM cannot be told from the best. AD and IC at 50 and 15 % are safe for
# EfficientNet-Lite0, but on the transformer the centre Gaussian is ahead of most methods; besides,
# T-TAME is trained for them, and Opti-CAM and refinement optimise them. The ROAD gap and insertion
# are safe, and tell whether the *order of the pixels* is that of their use; on Imagenette the gap
# ranks methods nearly as AD at 50 % does. SDS and SaCo are safe, agree with each other and less
# with AD, and tell whether *single regions* matter as much as the map says; Occlusion measures
# just that, so that they are no fair test of it. Grid pointing alone asks whether a map follows
# the *class*, and agrees with none of the others; it depends on where a method puts its zero. No
# single number says all of this. The README and the first page order methods by their mean rank
# over five safe measures:

# %%
pd.concat({name: headline(found) for name, found in comparisons.items()}).style.format(
    precision=1, na_rep="–"
).format(precision=0, subset=["forward", "backward"])

# %% [markdown]
# *Means by measures that no blind map wins, percent, higher is better, over the photos that all
# methods saw (120 of Imagenette, since T-TAME (published) was measured on those, and 160 of other
# kinds); best mean rank first. A dash: not measured. And beyond chance, is T-TAME better or worse?*

# %%
verdicts = {}
for name, found in comparisons.items():
    chosen = found.long["score"].isin(MEASURES) & ~found.long["method"].isin(blind)
    pairs = paired_differences(found.long[chosen])
    verdicts[name] = pairs.pivot(index="against", columns="score", values="verdict")
pd.concat(verdicts)[MEASURES].style.format(na_rep="–")

# %% [markdown]
# *T-TAME against each other method on the same photos: the verdict of the paired difference's 95 %
# interval. The runs on a GPU behind these tables were ended by their time limit, and what ships are
# the first photos that all of them had reached:*

# %%
made = {
    name: provenance_table(header)["provenance"]
    for found in comparisons.values() for name, header in found.headers.items()
}  # fmt: skip
rows = ["command", "shortened", "commit", "date", "machine"]
pd.concat(made, axis=1).loc[rows].T.style.format(na_rep="–")

# %% [markdown]
# ### Two more networks
#
# The same recipe, untuned, on two larger networks, and 200 of those other photos:

# %%
larger = {f"Lite{n}": read_results(reference(f"lite{n}_kinds_val.jsonl"))[1] for n in (1, 2)}
tables = {name: summary(found).filter(regex="^(AD|IC)") for name, found in larger.items()}
pd.concat(tables).round(1)

# %%
Markdown(
    "\n\n".join(
        f"On {name}, {in_words(paired_differences(scores(found)))}"
        for name, found in larger.items()
    )
)

# %% [markdown]
# *AD and IC in percent, and T-TAME against each other method, photo by photo, by 95 % intervals.*
#
# ## Does refinement explain, or does it fool?
#
# `T-TAME (refined)` optimises each map for the very score that AD and IC measure. A mask that only
# fools this classifier would not help others. Here the same masks are put before two larger
# classifiers, which had no part in them:

# %%
transfer = read_benchmark(reference("transfer.json"), "transfer")
columns = ["classifier", "score", "plain", "refined", "low", "high", "verdict", "photos"]
pd.DataFrame(transfer["rows"])[columns].set_index(["classifier", "score"]).round(1)

# %% [markdown]
# *AD and IC of plain and refined maps of EfficientNet-Lite0 by the classifiers named, percent, for
# the class that Lite0 predicts; 95 % interval of the paired difference, and the verdict on refined
# maps.* What refinement gains with all pixels, it gains for the others as well; with the top 15 %
# no difference is beyond chance.
#
# [The limitations](../book/limitations.md) say what all this leaves out.
#
# ## A live slice

# %%
setting = open_profile(profile)
explainer = ttame.load(setting.backbone)
count = photos or setting.pick(quick=24, imagenette=500, imagenet=2000)
measured = setting.photos("val").sample(count, seed)
print(f"{len(measured)} photos of {measured.name}, seed {seed}")
print(f"classifier {explainer.spec.name}, masking space {explainer.spec.space!r}")

# %%
runs = tempfile.TemporaryDirectory()
out = evaluate(
    explainer,
    measured,
    Path(runs.name) / "live.jsonl",
    methods=list(dict.fromkeys([*DEFAULT_METHODS, *blind])),
    seed=seed,
)
live_records = read_results(out)[1]
live = summary(live_records)
pd.concat({"live": live, "reference": table}, axis=1, join="inner")[
    [(kind, name) for name in live if name in quality for kind in ("live", "reference")]
].swaplevel(axis=1).round(1)

# %% [markdown]
# *AD and IC of this run, in percent, beside the reference results on more photos. On so few
# photos, perhaps of other things, they differ.*

# %%
plot_metrics(per_sample(live_records[live_records["method"].isin(DEFAULT_METHODS)]))

# %% [markdown]
# *AD and IC of the live run; bars are means, lines 95 % intervals over photos. They are wide, and
# neighbours must not be ranked by them.*
#
# ROAD, insertion and deletion ask for dozens of passes a photo and method, SaCo for ten, SDS for
# 16 a photo (the [method page](../book/method.md) defines both), so here for fewer of both:

# %%
out = evaluate(
    explainer,
    measured.select(range(min(few, len(measured)))),
    Path(runs.name) / "few.jsonl",
    methods=["T-TAME", "Grad-CAM", "random"],
    metrics=METRICS,
    seed=seed,
)
few_records = read_results(out)[1]
few_scores = ["ROAD MoRF", "ROAD LeRF", "insertion", "deletion", "SDS", "SaCo", "photos"]
summary(few_records)[few_scores].round(1)

# %% [markdown]
# *All scores on the first photos of the live run, enough to see how they are made and too few to
# compare methods.*

# %%
plot_probabilities(live_records[live_records["method"].isin(DEFAULT_METHODS)], 50)

# %% [markdown]
# *A mean hides how a method fails; every record holds the values of one photo. Probability of the
# predicted class on the whole photo and on the masked one, half of the pixels retained; a point
# is a photo of the live run. Points above the line count towards IC, points below it towards AD.*
#
# ## Photos and methods

# %%
raw = to_batch(measured.paths[:few], explainer.spec)
images = normalize(raw, explainer.spec)
with torch.no_grad():
    probability, target = explainer.classifier(images).softmax(dim=1).max(dim=1)
pictured = ("T-TAME", "Grad-CAM", "Grad-CAM++", "Layer-CAM", "Opti-CAM", "random")
maps = {name: build(name, explainer)(images, target) for name in pictured}
captions = [
    f"{explainer.classes[index].split(',')[0]}\n{value:.1%}"
    for index, value in zip(target.tolist(), probability.tolist(), strict=True)
]
plot_methods(raw, maps, captions)

# %% [markdown]
# *The first photos of the live run in rows, with the predicted class and its probability; in
# columns the map of each method for that class.*
#
# ## A photo loses its pixels
#
# What ROAD asks about, on one photo: at each share the classifier sees the picture that is shown,
# and answers what is written above it.

# %%
walked = {name: maps[name][:1] for name in ("T-TAME", "Grad-CAM", "random")}
plot_road_series(explainer, images[:1], walked, seed=seed)

# %% [markdown]
# *The first photo of the live run while 10 to 90 % of its pixels are removed and imputed, two rows
# a method: the photo under its map; then the most relevant pixels go first, or the least relevant.
# Titles give the share, the class that the classifier predicts, and its probability. A good map
# loses the answer early in its first row and keeps it long in its second; the random map shows
# what imputation alone does.*
#
# ## The sanity check
#
# A map of what the classifier has learnt must change when the classifier forgets it. The sanity
# check {cite}`sanity_checks` gives the classifier's layers new random weights, one after another
# from the head downwards, and compares the maps.

# %%
checked = ("T-TAME", "Grad-CAM", "centre Gaussian")
checks = [
    sanity_check(explainer, METHODS[name], images, target, stages=5, seed=seed) for name in checked
]
plot_randomization(
    pd.concat([check.assign(method=name) for name, check in zip(checked, checks, strict=True)])
)

# %% [markdown]
# *Rank correlation between the maps of the intact classifier and of the partly randomised one,
# for the photos above; lines are means. Near zero is good, at one the map does not depend on what
# was randomised. The Gaussian cannot react. T-TAME's map does not read the classifier's head, so
# it stays the same until randomisation reaches the deepest layer that it reads; its own mechanism
# is kept.*
#
# The check finds maps that show nothing learnt. A map that passes it may still be wrong.
#
# ## What the scores cannot see
#
# AD and IC reward a mask that hides little. The all-ones map hides nothing and so never drops
# anything with all pixels retained. Fake-CAM {cite}`opticam` is ones but for one pixel: it
# explains nothing and still gets a near-perfect AD there, and an IC like the toss of a coin. A
# Gaussian about the centre knows nothing of the photo but the photographer's habit.

# %%
table.loc[["T-TAME", "Grad-CAM", *blind], quality].round(1)

# %% [markdown]
# *From the reference results: maps that do not look at the photo, beside two that do. Retaining
# few pixels exposes constant maps, which have to pick theirs by lot; how much the Gaussian gets,
# the table shows. ROAD needs both of its orders: a constant map removes scattered pixels, which
# the imputation restores from their neighbours, so that it looks good in LeRF and bad in MoRF.*
#
# This is how often each of them has a smaller drop than T-TAME with all pixels retained:

# %%
drops = long[long["score"] == "AD 100%"].pivot_table(
    index="photo", columns="method", values="value"
)
for name in blind:
    better = int((drops[name] < drops["T-TAME"]).sum())
    print(f"{name}: a smaller drop on {better} of {len(drops)} photos")
runs.cleanup()

# %% [markdown]
# So read the scores together, at all shares, and beside such maps, as the test of the tests
# does above. None of them says whether a person understands the map, or whether the classifier is
# right.
