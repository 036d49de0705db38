"""How good explanations are: metrics, the run over photos, tables of results and comparisons.

Records hold raw outcomes; scores are made from them when they are read. Needs the extra
`ttame[evaluate]`; the confidence scores, which training computes too, need `ttame[train]` alone.
"""

from ttame.errors import require

require("evaluate", "torchmetrics", "pandas")
