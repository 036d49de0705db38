"""How good explanations are: metrics, the run over photos, tables of results and comparisons.

Records hold raw outcomes; scores are made from them when they are read.
"""
