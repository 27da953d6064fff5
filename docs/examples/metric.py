"""A metric of one's own: `objective: {metric: [kid, metric:ink], constraints: ["metric:ink <= 0.1"]}`."""

from gantune.metrics.own import Seen
from gantune.objectives import better


@better("lower")
def ink(seen: Seen) -> float:
    """How far the share of bright pixels in samples is from that in held-out examples."""
    fake = (seen.fake > 127).float().mean()  # pictures are uint8 [N, C, S, S]
    real = (seen.real > 127).float().mean()
    return abs(float(fake - real))
