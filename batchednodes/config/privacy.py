"""What must hold of differential privacy together with other settings.

Notation: c the settings, a `Config`; which the algorithm, as messages name it.
"""

from typing import Any

from batchednodes.config.rules import Rule
from batchednodes.data.augmentations import Mixup


def of_privacy(c: Any, which: str) -> tuple[Rule, ...]:
    """Returns the rules of what may be private, and of the draws of minibatches of which the privacy loss is known."""
    local, method = c.local, type(c.method)
    poisson, private = local.sampling == "poisson", local.privacy is not None
    noisy = private and local.privacy.is_noisy()
    return (
        ("local.steps must be a number with local.sampling=poisson", poisson and not isinstance(local.steps, int),
         "give one"),
        (f"local.privacy must be left out with {which}, which asks gradients at points of its own",
         private and not method.descends, "use an algorithm whose updates are local SGD"),
        (f"local.privacy must be left out with {which}, whose nodes choose by losses on their own examples",
         private and method.asks_some(), "use another algorithm"),
        ("local.privacy must be left out with task.data.kind=quadratics, whose gradients are no means over examples",
         private and c.task.data.is_quadratic(), "leave it out"),
        ("task.augment must be without mixup with local.privacy, which clips the gradients of single examples",
         private and any(isinstance(one, Mixup) for one in c.task.augment), "leave it out"),
        ("dtype must be float32 or float64 with local.privacy, whose norms bfloat16 would round too much",
         private and c.dtype == "bfloat16", "use one of them"),
        ("local.sampling must be poisson or shuffle with local.privacy.noise, the privacy loss of which is known, got "
         "'replacement'", noisy and local.sampling == "replacement", "use poisson"),
    )  # fmt: skip
