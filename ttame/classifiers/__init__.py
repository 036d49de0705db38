"""What is explained: the registry of classifiers, their facts, layers, classes and weights.

A classifier is given by a registered name, a name of timm or torchvision, or as a module of the
user's own, which is adopted as it is.
"""
