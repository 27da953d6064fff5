"""MNIST, Fashion-MNIST and CIFAR-10 through torchvision, downloaded once into the cache."""

from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

from torchvision import datasets

from gantune.config import DataConfig
from gantune.data.cache import cache_directory
from gantune.data.source import Example, Source
from gantune.errors import DataError


def mnist(config: DataConfig) -> Source:
    """The 60,000 training digits of MNIST, 28x28 grey. LeCun et al. 1998."""
    return _source("mnist", datasets.MNIST)


def fashion_mnist(config: DataConfig) -> Source:
    """The 60,000 training pictures of Fashion-MNIST, 28x28 grey. Xiao et al. 2017."""
    return _source("fashion_mnist", datasets.FashionMNIST)


def cifar10(config: DataConfig) -> Source:
    """The 50,000 training pictures of CIFAR-10, 32x32 RGB. Krizhevsky 2009."""
    return _source("cifar10", datasets.CIFAR10)


def _source(name: str, dataset: type[Any]) -> Source:
    folder = cache_directory() / "torchvision"
    try:
        found = dataset(root=str(folder), train=True, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"data set `{name}` could not be downloaded into {folder}: {error}. "
            "Check the network, or name a local copy: --set data.dataset=FILE.parquet"
        ) from error

    def examples() -> Iterator[Example]:
        for index in range(len(found)):
            picture, label = found[index]
            yield picture, int(label)

    return Source(identity=f"{name}-train", count=len(found), class_names=tuple(found.classes), examples=examples())
