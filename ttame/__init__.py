"""T-TAME: trainable attention explanations for any image classifier.

>>> import ttame
>>> ttame.load("tf_efficientnet_lite0").explain("cat.jpg").plot()  # doctest: +SKIP

Names are imported when they are first used, so that `import ttame` and the command line's help
do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ttame.attention import AttentionConfig, AttentionMechanism
    from ttame.classifiers.registry import BACKBONES, load_backbone
    from ttame.classifiers.specs import BackboneSpec
    from ttame.companion.demo import demo
    from ttame.companion.exploration import Exploration, explore
    from ttame.errors import TTameError
    from ttame.explainer import Explainer
    from ttame.explanation import Explanation
    from ttame.export.exported import Exported
    from ttame.loading import attach, explainers, load

__version__ = "0.1.0"

_HOMES = {
    "AttentionConfig": "attention",
    "AttentionMechanism": "attention",
    "BACKBONES": "classifiers.registry",
    "BackboneSpec": "classifiers.specs",
    "load_backbone": "classifiers.registry",
    "TTameError": "errors",
    "Explainer": "explainer",
    "Explanation": "explanation",
    "Exported": "export.exported",
    "Exploration": "companion.exploration",
    "attach": "loading",
    "demo": "companion.demo",
    "explainers": "loading",
    "explore": "companion.exploration",
    "load": "loading",
}

__all__ = [
    "BACKBONES",
    "AttentionConfig",
    "AttentionMechanism",
    "BackboneSpec",
    "Explainer",
    "Explanation",
    "Exploration",
    "Exported",
    "TTameError",
    "__version__",
    "attach",
    "demo",
    "explainers",
    "explore",
    "load",
    "load_backbone",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ttame' has no attribute {name!r}")
    return getattr(import_module(f"ttame.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
