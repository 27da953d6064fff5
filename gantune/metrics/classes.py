"""What a classifier makes of generated samples: how sure, how many classes, and whether it could learn from them."""

import torch
from torch import Tensor

FOUND = 0.1  # of a class's real share, from which it counts as reached


def inception_score(logits: Tensor) -> float:
    """Exp of the mean divergence of each sample's classes from all samples', 1 to K. Salimans et al. 2016, section 4.

    logits: [N, K]. Of the classifier in use; only that of `inception` compares with published values.
    """
    shares = torch.softmax(logits.double(), 1)
    mean = shares.mean(0)
    return float((torch.special.entr(mean).sum() - torch.special.entr(shares).sum(1).mean()).exp())


def modes(logits: Tensor, real_shares: Tensor) -> float:
    """Share of the real data's classes that the samples reach: a tenth of a class's real share, or more.

    Srivastava et al. 2017, VEEGAN, section 4.1, count modes likewise. logits: [N, K]; real_shares: the share [K] that
    the same classifier gives each class among the reals.
    """
    found = torch.bincount(logits.argmax(1), minlength=logits.shape[1]).double() / len(logits)
    there = real_shares > 0
    least = FOUND * real_shares.double() - 1e-6  # of a share kept in float32
    return float((found[there] >= least[there]).double().mean())
