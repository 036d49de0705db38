"""How the shipped Vision Transformer was made: by distillation from a convolutional classifier."""
