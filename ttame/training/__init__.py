"""How a mechanism is trained: objective, start, sampling, the engine and its checkpoints.

`config` says how a run is carried out, `fit` carries it out. Needs the extra `ttame[train]`.
"""

from ttame.errors import require

require("train")
