"""What an export holds for those without gantune: programs that give what the network gives, or none at all."""

import errno
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from test_export import COLOUR, CONFIG, GREY, MLP, PLANE, told_classes, write_best

from gantune.config import Component
from gantune.errors import GantuneError
from gantune.export import WEIGHTS, export, folder, load_generator, snippets
from gantune.export.alone import ABOUT, PROGRAM
from gantune.export.programs import TOLERANCE, Program, UnfitError, onnx_program, torch_program
from gantune.pictures import grid


def built(name, **options):
    return Component(name=name, options=tuple(sorted(options.items())))


RESNET = built("resnet", width_g=8, width_d=4, z_dim=8)
R3GAN = built("r3gan", width=8, z_dim=8)
ARCHITECTURES = {
    "mlp": (MLP, GREY),
    "mlp-classes": (told_classes(MLP), replace(GREY, classes=3)),
    "mlp-points": (MLP, PLANE),
    "mlp-points-classes": (told_classes(MLP), replace(PLANE, classes=3)),
    "dcgan": (built("dcgan", width=4, z_dim=8), COLOUR),
    "dcgan-bilinear-classes": (
        built("dcgan", width=4, upsampling="bilinear", conditional=True),
        replace(GREY, classes=3),
    ),
    "resnet-attention": (built("resnet", width_g=8, width_d=4, attention=True, spectral_g=True), COLOUR),
    "resnet-classes": (told_classes(RESNET), replace(COLOUR, classes=3)),
    "r3gan": (R3GAN, COLOUR),
    "r3gan-classes": (told_classes(R3GAN), replace(GREY, classes=3)),
}


def generator_of(tmp_path, architecture, shape):
    counts = (30, 20, 10) if dict(architecture.options).get("conditional") else ()
    path, _ = write_best(tmp_path / "best.safetensors", replace(CONFIG, architecture=architecture), shape, counts)
    return load_generator(path)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_programs_of_every_architecture_give_what_the_network_gives_at_any_count(tmp_path, name):
    generator = generator_of(tmp_path, *ARCHITECTURES[name])
    (tmp_path / "g.pt2").write_bytes(torch_program(generator).content)
    program = torch.export.load(tmp_path / "g.pt2").module()
    session = onnxruntime.InferenceSession(onnx_program(generator).content, providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_inputs()] == ["latents", "labels"][: 1 + bool(generator.class_counts)]
    assert all(item.shape[0] == "batch" for item in (*session.get_inputs(), *session.get_outputs()))
    for count in (1, 3, 50):
        given = [torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(count))]
        given += [torch.arange(count) % 3] * bool(generator.class_counts)
        expected = generator.net(*given)
        assert torch.equal(program(*given), expected)
        names = [item.name for item in session.get_inputs()]
        (found,) = session.run(None, {name: value.numpy() for name, value in zip(names, given, strict=True)})
        assert np.abs(found - expected.numpy()).max() <= TOLERANCE
        assert tuple(found.shape) == (count, *generator.dims)


def test_the_program_is_read_without_unpickling_anything_but_tensors(tmp_path, monkeypatch):
    generator = generator_of(tmp_path, MLP, GREY)
    (tmp_path / "g.pt2").write_bytes(torch_program(generator).content)
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    told = {ABOUT: ""}
    torch.export.load(tmp_path / "g.pt2", extra_files=told)
    assert '"z_dim": 6' in told[ABOUT]
    assert b'"use_pickle": true' not in (tmp_path / "g.pt2").read_bytes()


# Networks of a user's own

OWN = """
import torch
from torch import nn
from gantune.models.networks import Networks


class Generator(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape, self.layer = shape.dims, nn.Linear(4, 64)

    def forward(self, latents):
        flat = self.layer(latents)
        {does}
        return flat.tanh().reshape(-1, 1, 8, 8)


def mine(shape):
    return Networks(Generator(shape), nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0)), 4)
"""
WITHOUT_ONNX = "flat = torch.special.bessel_j0(flat)"
BY_VALUE = "flat = flat if flat.sum() > 0 else -flat"
BY_CHANCE = "flat = flat + torch.randn_like(flat)"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The checkpoint of a network of a user's own."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, does):
        (tmp_path / f"{name}.py").write_text(OWN.replace("{does}", does))
        config = replace(CONFIG, architecture=Component(name=f"{name}:mine"))
        return write_best(tmp_path / f"{name}.safetensors", config, replace(GREY, size=8))[0]

    return write


@pytest.mark.parametrize(
    ("does", "lacks"),
    [
        (WITHOUT_ONNX, {"generator.onnx"}),
        (BY_VALUE, {"generator.onnx", PROGRAM, "sample.py"}),
        (BY_CHANCE, {"generator.onnx", PROGRAM, "sample.py"}),
    ],
    ids=["an operation that ONNX lacks", "a branch on values", "noise of its own"],
)
def test_a_network_that_a_program_cannot_hold_is_exported_without_it(tmp_path, own, capfd, does, lacks):
    best = own(f"own_{len(lacks)}_{len(does)}", does)
    winner = tmp_path / "winner"
    winner.mkdir()
    for name in {"generator.safetensors"} | lacks:
        (winner / name).write_text("of an earlier export")
    exported = export(best, winner, report="<!doctype html>")
    assert capfd.readouterr() == ("", "")
    assert {path.name for path in winner.iterdir()} == set(snippets.HOLDS) - lacks == set(exported.files)
    assert set(exported.left_out) == lacks
    for name, reason in exported.left_out.items():
        assert reason.startswith(f"{name} is left out: ")
        assert "\n" not in reason
    instead = "draw by `gantune sample`" if PROGRAM in lacks else f"use {PROGRAM}"
    assert exported.left_out["generator.onnx"].endswith(f"); {instead}, or change the architecture")
    card = (winner / "README.md").read_text()
    assert all(f"{reason[1:]}." in card for reason in exported.left_out.values())
    assert not any(f"\n`{name}`:" in card for name in lacks)


def test_a_program_that_differs_is_refused(tmp_path, monkeypatch):
    generator = generator_of(tmp_path, MLP, GREY)
    real = torch.export.load

    class Off:
        def __init__(self, stream):
            self.program = real(stream).module()

        def module(self):
            return lambda *given: self.program(*given) + 2e-4

    monkeypatch.setattr(torch.export, "load", Off)
    with pytest.raises(UnfitError, match=r"differs from what the network gives by 0\.0002"):
        torch_program(generator)


# Disks


def test_a_disk_that_fails_midway_leaves_whole_files_or_none(tmp_path, monkeypatch):
    best, _ = write_best(tmp_path / "best.safetensors")
    for name in ("torch_program", "onnx_program"):
        monkeypatch.setattr(folder, name, lambda generator: Program(b"a program", 0.0))
    export(best, tmp_path / "whole")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    replace_file = os.replace
    for failing in range(len(whole)):
        left, cut = [failing], tmp_path / f"cut{failing}"

        def fail(source, target, left=left, cut=cut):
            left[0] -= Path(target).parent == cut
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            replace_file(source, target)

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(GantuneError, match="cannot be written: No space left on device"):
            export(best, cut)
        found = {path.name: path.read_bytes() for path in cut.iterdir()}
        assert len(found) == failing
        assert not [name for name in found if found[name] != whole[name] and name != WEIGHTS]
        if WEIGHTS in found:  # its header is in no order
            assert np.array_equal(load_generator(cut).draw(3), load_generator(best).draw(3))


# sample.py, where nothing but torch is installed


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder of packages that holds torch, what it requires, and nothing else."""
    site = tmp_path_factory.mktemp("site")
    asked, seen = ["torch"], set()
    while asked:
        name = asked.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another system, or another Python
        for file in found.files or ():
            top = Path(str(file)).parts[0]
            place = Path(found.locate_file(top))
            if top not in ("..", "__pycache__") and place.exists() and not (site / top).exists():
                (site / top).symlink_to(place)
        for required in found.requires or ():
            if "extra ==" not in required:
                asked.append(re.split(r"[^\w.-]", required)[0].lower())
    assert not {"numpy", "PIL", "gantune", "safetensors"} & {path.name for path in site.iterdir()}
    return site


def alone(winner, site, *arguments):
    """Runs an export's sample.py as a Python does that has torch alone; no environment, no other packages."""
    script = (
        f"import sys, runpy; sys.path.append({str(site)!r}); sys.argv = ['sample.py', *{list(map(str, arguments))!r}]; "
        f"runpy.run_path({str(winner / 'sample.py')!r}, run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=120, check=False, cwd=winner
    )


def test_the_script_draws_what_gantune_draws_with_torch_alone(tmp_path, bare):
    best, _ = write_best(tmp_path / "best.safetensors", shape=COLOUR)
    winner = tmp_path / "winner"
    export(best, winner)
    generator = load_generator(best)

    done = alone(winner, bare, "-n", 70, "--seed", 5, "--out", "drawn.png")
    assert (done.returncode, done.stdout, done.stderr) == (0, "70 samples in drawn.png\n", "")
    with Image.open(winner / "drawn.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(grid(generator.draw(70, 5))))

    done = alone(winner, bare, "-n", 503, "--seed", 2, "--truncation", 0.5, "--out", "many")
    assert (done.returncode, done.stdout) == (0, "503 samples in many\n"), done.stderr
    files = sorted((winner / "many").iterdir())
    assert [path.name for path in files] == [f"{index:06d}.png" for index in range(503)]
    drawn = generator.draw(503, 2, truncation=0.5)
    for path, expected in zip(files, drawn, strict=True):
        with Image.open(path) as picture:
            assert np.array_equal(np.asarray(picture).transpose(2, 0, 1), expected)


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs an export's sample.py in its folder, in this process: its exit code and what it printed."""

    def run(winner, *arguments):
        monkeypatch.chdir(winner)
        monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(winner / "sample.py"), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        shown = capsys.readouterr()
        return (code, shown.out) if code in (0, 2) and not shown.err else (code, shown.out + shown.err)

    return run


def test_the_script_draws_the_classes_that_are_asked_for(tmp_path, script):
    config = replace(CONFIG, architecture=told_classes(MLP))
    best, _ = write_best(tmp_path / "best.safetensors", config, replace(GREY, classes=3), (30, 20, 10))
    winner = tmp_path / "winner"
    export(best, winner)
    generator = load_generator(best)
    for arguments, classes in (((), ()), (("--class", 2, "--class", 0), (2, 0))):
        out = f"drawn{len(classes)}.png"
        assert script(winner, "--seed", 1, *arguments, "--out", out) == (0, f"64 samples in {out}\n")
        with Image.open(winner / out) as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(grid(generator.draw(64, 1, classes=classes))))
    code, told = script(winner, "--class", 3)
    assert (code, "there is no class 3; classes are 0 to 2" in told) == (2, True)


def test_the_script_writes_points_as_numbers(tmp_path, script):
    best, _ = write_best(tmp_path / "best.safetensors", replace(CONFIG, architecture=MLP), PLANE)
    winner = tmp_path / "winner"
    export(best, winner)
    assert script(winner, "-n", 600, "--seed", 3) == (0, "600 samples in drawn.csv\n")
    found = np.loadtxt(winner / "drawn.csv", delimiter=",").astype(np.float32)
    assert np.array_equal(found, load_generator(best).draw(600, 3))
    code, told = script(winner, "--out", "points.png")
    assert (code, "draws points" in told) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--class", 0), 2, "the generator knows no classes"),
        (("--out", "drawn.jpg"), 2, "must end in .png"),
        (("-n", 0), 2, "must be 1 or more"),
        (("--seed", -1), 2, "must be from 0"),
        (("--truncation", 0), 2, "must be above 0"),
        (("-n", 20_000, "--out", "drawn.png"), 2, "name a folder"),
        (("--out", "full"), "full: cannot be written: is not empty; name another folder", ""),
        (("--out", "README.md/below"), "README.md/below: cannot be written: Not a directory", ""),
    ],
)
def test_the_script_tells_a_mistake_in_words(exported, script, arguments, code, told):
    found = script(exported, *arguments)
    assert found[0] == code
    assert told in found[1]


def test_the_script_tells_of_a_program_that_is_gone_or_damaged(tmp_path, script):
    (tmp_path / "sample.py").write_bytes((Path(folder.__file__).parent / "alone.py").read_bytes())
    code, told = script(tmp_path)
    assert (f"{tmp_path / PROGRAM}: " in code, "there is no such file" in code, told) == (True, True, "")
    (tmp_path / PROGRAM).write_bytes(b"no archive")
    code, told = script(tmp_path)
    assert ("cannot be loaded by PyTorch" in code, told) == (True, "")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One export for all that only look at it."""
    place = tmp_path_factory.mktemp("exported")
    best, _ = write_best(place / "best.safetensors")
    export(best, place / "winner")
    (place / "winner" / "full").mkdir()
    (place / "winner" / "full" / "file").write_text("")
    return place / "winner"


def test_an_exports_folder_draws_as_before(exported):
    assert np.array_equal(load_generator(exported).draw(9, 1), load_generator(exported / WEIGHTS).draw(9, 1))
