"""T-TAME: trainable attention explanations for any image classifier.

>>> import ttame
>>> ttame.load("tf_efficientnet_lite0").explain("cat.jpg").plot()  # doctest: +SKIP
"""

from ttame.attention import AttentionConfig, AttentionMechanism
from ttame.backbones import BACKBONES, BackboneSpec, load_backbone
from ttame.errors import TTameError
from ttame.explainer import Explainer, attach, explainers, load
from ttame.explanation import Explanation

__version__ = "0.1.0"

__all__ = [
    "BACKBONES",
    "AttentionConfig",
    "AttentionMechanism",
    "BackboneSpec",
    "Explainer",
    "Explanation",
    "TTameError",
    "__version__",
    "attach",
    "explainers",
    "load",
    "load_backbone",
]
