"""What the book needs, and its studies: notebooks, figures, tables, shipped results.

The method itself does not import this package; only the command line does, and the lazy names of
`ttame`.
"""
