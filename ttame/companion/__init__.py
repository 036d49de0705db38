"""What only the book needs: notebooks, figures, studies, shipped results, the interactive page.

The method does not import this package; only the command line and the lazy names of `ttame` do.
"""
