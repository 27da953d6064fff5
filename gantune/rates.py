"""The numbers an optimizer steps by: set from the configuration before every step, never taken from a file."""

from collections.abc import Mapping

from torch import optim

Numbers = dict[str, float]

MOST = 0.999999  # of a decay; at 1 nothing is forgotten, and Adam divides by the 0 of its bias correction

FIXED = ("weight_decay", "nesterov")
DECAYS = ("beta1", "beta2", "alpha", "momentum")
SECOND = ("beta2", "alpha")  # the decays of a second moment
LONGEST = 0.999999  # at a decay of 1 Adam divides by 0


class Rates:
    """Holds one optimizer to its rates: those it was built with, corrected for lazy penalties, scaled by schedules.

    lazy: the number of steps between two penalties. Above 1 the rate is scaled by c = k / (k + 1) and each decay is
    raised to the power of c, which keeps what a sample weighs. Karras et al. 2020, StyleGAN2, appendix B.
    """

    def __init__(self, optimizer: optim.Optimizer, *, lazy: int = 1) -> None:
        self._optimizer = optimizer
        self._correction = lazy / (lazy + 1) if lazy > 1 else 1.0
        self._built = self.in_force()

    def apply(self, lr_factor: float, forgetting_factor: float) -> None:
        """Scale every learning rate, and the forgetting 1 - beta2 of every second moment."""
        for group, built in zip(self._optimizer.param_groups, self._built, strict=True):
            numbers = self.due(built, lr_factor, forgetting_factor)
            if "beta1" in numbers:
                group["betas"] = (numbers["beta1"], numbers["beta2"])
            group.update({name: value for name, value in numbers.items() if name in group})

    def due(self, chosen: Mapping[str, float], lr_factor: float, forgetting_factor: float) -> Numbers:
        """What chosen numbers come to under the correction and these factors."""
        numbers = dict(chosen)
        for name, value in chosen.items():
            if name == "lr":
                numbers[name] = value * self._correction * lr_factor
            elif name in DECAYS:
                numbers[name] = value**self._correction if value else value
            if name in SECOND and forgetting_factor != 1.0:
                numbers[name] = min(MOST, max(0.0, 1.0 - (1.0 - numbers[name]) * forgetting_factor))
        return numbers

    def in_force(self) -> list[Numbers]:
        """What the optimizer will step by, a group each, under the names of its options."""
        found = []
        for group in self._optimizer.param_groups:
            numbers = {name: group[name] for name in ("lr", *FIXED, *DECAYS) if name in group}
            if "betas" in group:
                numbers["beta1"], numbers["beta2"] = group["betas"]
            found.append(numbers)
        return found
