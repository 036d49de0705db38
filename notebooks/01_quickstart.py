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
# # Quickstart
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/01_quickstart.ipynb)
#
# A placeholder that proves the pipeline: it plots the area term of the objective.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
points = 50

# %% [markdown]
# ## The area term
#
# The penalty of a mask value $a$ is $(a + \varepsilon)^{\lambda_4}$.

# %%
import numpy as np
import seaborn as sns

sns.set_theme(style="whitegrid")
values = np.linspace(0, 1, points)
axis = sns.lineplot(x=values, y=(values + 5e-4) ** 0.3)
axis.set(xlabel="mask value", ylabel="penalty", title=f"profile {profile}")
axis.figure.tight_layout()
