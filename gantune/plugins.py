"""Find a component by name and read its options from its signature.

A component is a plain function; its keyword-only parameters are its options, and their annotations say what
may be chosen: `Literal[...]` for names, `Annotated[float, Bounds(...)]` for numbers.
"""

import difflib
import importlib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, is_dataclass
from importlib import metadata
from typing import Any

from gantune.config import Bounds, Scalar, Works
from gantune.errors import PluginError

Factory = Callable[..., Any]

BUILTIN: dict[str, dict[str, str]] = {
    "architecture": {
        "mlp": "gantune.models.mlp:mlp",
        "dcgan": "gantune.models.dcgan:dcgan",
        "resnet": "gantune.models.resnet:resnet",
        "r3gan": "gantune.models.r3gan:r3gan",
    },
    "loss": {
        "minimax": "gantune.losses:minimax",
        "non_saturating": "gantune.losses:non_saturating",
        "least_squares": "gantune.losses:least_squares",
        "hinge": "gantune.losses:hinge",
        "wasserstein": "gantune.losses:wasserstein",
        "wgan_gp": "gantune.losses:wgan_gp",
        "relativistic": "gantune.losses:relativistic",
    },
    "penalty": {
        "none": "gantune.penalties:no_penalty",
        "gradient_penalty": "gantune.penalties:GradientPenalty",
        "dragan": "gantune.penalties:Dragan",
        "r1": "gantune.penalties:R1",
        "r2": "gantune.penalties:R2",
        "r1_r2": "gantune.penalties:R1R2",
    },
    "regularizer": {
        "none": "gantune.regularizers:no_regularizer",
        "lecam": "gantune.regularizers:LeCam",
        "consistency": "gantune.regularizers:Consistency",
    },
    "augmentation": {
        "none": "gantune.augmentation:no_augmentation",
        "diffaugment": "gantune.augmentation:DiffAugment",
        "ada": "gantune.augmentation:Adaptive",
    },
    "optimizer": {
        "adam": "gantune.optimizers:adam",
        "adamw": "gantune.optimizers:adamw",
        "rmsprop": "gantune.optimizers:rmsprop",
        "sgd": "gantune.optimizers:sgd",
    },
    "schedule": {
        "constant": "gantune.schedules:constant",
        "linear": "gantune.schedules:linear",
        "cosine": "gantune.schedules:cosine",
    },
    "features": {
        "auto": "gantune.metrics.features:auto",
        "classifier": "gantune.metrics.features:classifier",
        "rotation": "gantune.metrics.features:rotation",
        "inception": "gantune.metrics.pretrained:inception",
        "dinov2": "gantune.metrics.pretrained:dinov2",
        "lite0": "gantune.metrics.pretrained:lite0",
        "pixels": "gantune.metrics.pretrained:pixels",
        "torchscript": "gantune.metrics.pretrained:torchscript",
    },
    "dataset": {
        "digits": "gantune.data.digits:digits",
        "mnist": "gantune.data.torchvision_sets:mnist",
        "fashion_mnist": "gantune.data.torchvision_sets:fashion_mnist",
        "cifar10": "gantune.data.torchvision_sets:cifar10",
        "gaussians8": "gantune.data.points:gaussians8",
        "gaussians25": "gantune.data.points:gaussians25",
        "swiss_roll": "gantune.data.points:swiss_roll",
    },
    "metric": {},  # those of objectives.py share their work, and are no components
}

# What people ask for, and the kind of component that it is.
TOPICS = {
    "architectures": "architecture",
    "losses": "loss",
    "penalties": "penalty",
    "regularizers": "regularizer",
    "augmentations": "augmentation",
    "optimizers": "optimizer",
    "schedules": "schedule",
    "data": "dataset",
    "features": "features",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a component or one field of a section."""

    name: str
    kind: type
    optional: bool
    choices: tuple[Scalar, ...]
    bounds: Bounds
    default: Any
    annotation: Any
    works: str = ""
    words: tuple[str, ...] = ()  # that may stand for a number

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return self.default is inspect.Parameter.empty

    @property
    def numeric(self) -> bool:
        """Whether the option is a number, so that a range may stand for it."""
        return self.kind in (int, float) and not self.choices

    def convert(self, value: Scalar) -> Scalar:
        """The value in the option's own type. Raises ValueError with what would be accepted."""
        if isinstance(value, str) and value in self.words:
            return value
        if value is None:
            if self.optional:
                return None
            raise ValueError(f"expected {self.expected()}, got nothing")
        if type(value) is int and abs(value) >= 2**63:
            raise ValueError(f"expected {self.expected()}, got a number beyond 64 bits")
        if self.kind is float and type(value) is int:
            value = float(value)
        if type(value) is not self.kind or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"expected {self.expected()}, got `{value}`")
        if self.choices and value not in self.choices:
            raise ValueError(
                f"expected {self.expected()}, got `{value}`{did_you_mean(str(value), map(str, self.choices))}"
            )
        if self.numeric and not _inside(typing.cast(float, value), self.bounds):
            raise ValueError(f"expected {self.expected()}, got {value:g}")
        return value

    def expected(self) -> str:
        """What would be accepted, in words."""
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        noun = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[self.kind]
        limits = []
        if self.bounds.above is not None:
            limits.append(f"above {self.bounds.above:g}")
        if self.bounds.low is not None:
            limits.append(f"of at least {self.bounds.low:g}")
        if self.bounds.high is not None:
            limits.append(f"of at most {self.bounds.high:g}")
        return " ".join([noun, " and ".join(limits)]).strip() + "".join(f", or {word}" for word in self.words)


def _inside(value: float, bounds: Bounds) -> bool:
    return (
        (bounds.low is None or value >= bounds.low)
        and (bounds.high is None or value <= bounds.high)
        and (bounds.above is None or value > bounds.above)
    )


def options(factory: Factory) -> dict[str, Option]:
    """The options of a component (or of a configuration dataclass), in the order of its signature."""
    try:
        hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
        signature = inspect.signature(factory)
    except (NameError, TypeError, ValueError) as error:
        raise PluginError(
            f"the options of `{getattr(factory, '__name__', factory)}` cannot be read: {error}"
        ) from error
    found = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            default = None if repr(parameter.default) == "<factory>" else parameter.default
            found[name] = _option(name, hints.get(name, str), default)
            plain = found[name].kind in (int, float, str, bool) and not found[name].words
            if not is_dataclass(factory) and not plain:
                raise PluginError(
                    f"option `{name}` of `{getattr(factory, '__name__', factory)}` is {found[name].annotation}; "
                    "an option is an int, float, str, bool or Literal"
                )
    return found


def _option(name: str, annotation: Any, default: Any) -> Option:
    if default is MISSING:
        default = inspect.Parameter.empty
    inner, optional, bounds, works, words = annotation, False, Bounds(), "", ()
    while True:
        origin = typing.get_origin(inner)
        if origin is typing.Annotated:
            inner, *extras = typing.get_args(inner)
            bounds = next((extra for extra in extras if isinstance(extra, Bounds)), bounds)
            works = next((extra.domain for extra in extras if isinstance(extra, Works)), works)
        elif origin in (typing.Union, types.UnionType):
            parts = typing.get_args(inner)
            rest = [part for part in parts if part is not type(None)]
            if len(rest) == len(parts) and any(typing.get_origin(part) is not typing.Literal for part in rest[1:]):
                break
            inner, optional = rest[0], len(rest) < len(parts)
            words = tuple(word for part in rest[1:] for word in typing.get_args(part))
        else:
            break
    choices = tuple(typing.get_args(inner)) if typing.get_origin(inner) is typing.Literal else ()
    return Option(
        name=name,
        kind=type(choices[0]) if choices else inner,
        optional=optional,
        choices=choices,
        bounds=bounds,
        default=default,
        annotation=annotation,
        works=works,
        words=words,
    )


def names(kind: str) -> list[str]:
    """The names known for a kind of component: built in, then those that installed packages register."""
    installed = {point.name for point in metadata.entry_points(group=f"gantune.{kind}")}
    return [*BUILTIN[kind], *sorted(installed - set(BUILTIN[kind]))]


def resolve(kind: str, name: str) -> Factory:
    """The component called `name`: a known name or `package.module:function`.

    Raises PluginError where there is none, with the nearest known name.
    """
    if name in BUILTIN[kind]:
        return _load(kind, BUILTIN[kind][name])
    for point in metadata.entry_points(group=f"gantune.{kind}"):
        if point.name == name:
            return _load(kind, point.value)
    if ":" in name:
        return _load(kind, name)
    raise PluginError(f"unknown {kind} `{name}`{did_you_mean(name, names(kind))}")


def _load(kind: str, target: str) -> Factory:
    module_name, _, attribute = target.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:  # a user's module may fail in any way; say so and where
        raise PluginError(f"{kind} `{target}` cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise PluginError(f"{kind} `{target}` is not a function")
    return typing.cast(Factory, found)


def shown(value: object) -> str:
    """A value in the words of a space file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` with the nearest known name, or the list of known names."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean `{near[0]}`?"
    return f"; known: {', '.join(known)}" if known else ""
