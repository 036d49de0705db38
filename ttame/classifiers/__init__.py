"""What is explained: the registry of classifiers, their facts, layers, classes and weights."""
