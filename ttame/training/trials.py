"""Learning which pixels to keep by trying two masks per photo (ours, not in `ttame`).

Which pixels are among the top 15 % is a hard choice. Gradients reach a map through the values of
the pixels kept, not through the choice. A trial asks the classifier instead: the map is moved by
smooth noise both ways, the classifier answers to both masks, and the map is pushed towards the
better one. This is an antithetic evolution strategy (`salimans2017`) over maps, averaged over
photos by the mechanism's weights; it needs forward passes only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ttame.attention import standardize
from ttame.classifiers.outputs import Activation, log_probabilities
from ttame.masking import upsample
from ttame.training.sampling import mixed_seed

_CELLS = 7  # height and width of the noise: what is moved together
_SIGMA = 0.5  # of the noise, in standard deviations of the map's log-odds
_LOGARITHM = 0.05  # share of log p'/p in the reward: it tells masks apart where both lose the class


def draw_noise(seed: int, step: int, photos: Sequence[int]) -> Tensor:
    """Draw coarse noise for each photo, from (seed, step, photo) alone: `(B, 1, 7, 7)`."""
    return torch.stack(
        [torch.randn(1, _CELLS, _CELLS,
                     generator=torch.Generator().manual_seed(mixed_seed(seed, step, photo)))
         for photo in photos]
    )  # fmt: skip


def smooth_noise(drawn: Tensor, size: Sequence[int]) -> Tensor:
    """Resize noise to maps `(B, 1, h, w)` of `size`, each of mean 0 and standard deviation 1."""
    return standardize(upsample(drawn, size))


def trial_maps(log_odds: Tensor, noise: Tensor) -> Tensor:
    """Move maps `(B, 1, h, w)` by noise: both ways, `(2·B, 1, h, w)`, in log-odds."""
    moved = _SIGMA * log_odds.detach().std(dim=(-2, -1), keepdim=True) * noise
    return torch.cat([log_odds.detach() + moved, log_odds.detach() - moved])


def reward(
    whole: Tensor,
    masked: Tensor,
    labels: Tensor,
    gain_limit: float | None,
    activation: Activation = "softmax",
) -> Tensor:
    """Rate masks by the share of the label's probability that they keep.

    Args:
        whole: Outputs for the whole images, `(B, K)`.
        masked: Outputs for the images under both masks, `(2·B, K)`.
        labels: `(B,)` int64.
        gain_limit: How far a relative rise counts; `None`: without limit.
        activation: What turns outputs into probabilities.

    Returns:
        p'/p, with a small share of its logarithm, `(2, B)`.
    """
    index = labels[:, None]
    before = log_probabilities(whole, activation).gather(1, index)[:, 0]
    after = log_probabilities(masked, activation).gather(1, index.repeat(2, 1))[:, 0]
    logarithm = after.view(2, -1) - before
    share = logarithm.exp()
    return share.clamp_max(torch.inf if gain_limit is None else 1 + gain_limit) + (
        _LOGARITHM * logarithm
    )


def trial_loss(log_odds: Tensor, noise: Tensor, rewards: Tensor) -> Tensor:
    """Return a loss whose gradient pushes each map towards the better of its two masks.

    Args:
        log_odds: Maps, `(B, 1, h, w)`, differentiable.
        noise: As for `trial_maps`.
        rewards: Of both masks, `(2, B)`.

    Returns:
        Scalar; its value means nothing, its gradient estimates that of the negative mean reward.
    """
    scale = log_odds.detach().std(dim=(-2, -1), keepdim=True).clamp_min(1e-6)
    advantage = (rewards[0] - rewards[1])[:, None, None, None]
    return -(advantage * noise * log_odds / scale).mean() / (2 * _SIGMA)
