"""A loss of one's own: `loss: loss:margin`, or `{loss:margin: {width: 0.5..2}}`."""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import relu

from gantune.config import Bounds, Works
from gantune.losses import Game


def margin(*, width: Annotated[float, Bounds(above=0), Works("0.5..2")] = 1.0) -> Game:
    """The hinge with a margin that can be searched. Both losses are per sample: logits [B] -> [B]."""

    def d_loss(real: Tensor, fake: Tensor) -> Tensor:
        return relu(width - real) + relu(width + fake)

    def g_loss(fake: Tensor) -> Tensor:
        return -fake

    return Game(d_loss=d_loss, g_loss=g_loss)
