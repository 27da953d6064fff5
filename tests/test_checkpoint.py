import io
import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gantune import checkpoint
from gantune.checkpoint import read_checkpoint, write_checkpoint
from gantune.errors import CheckpointError
from gantune.whole import whole

META = {"score": 1.25, "nested": {"list": [1, None, True], "text": "päivää"}, "third": 0.1}


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "float32": torch.randn(3, 4, generator=generator),
        "float64": torch.randn(2, generator=generator, dtype=torch.float64),
        "float16": torch.randn(5, generator=generator).half(),
        "bfloat16": torch.randn(5, generator=generator).bfloat16(),
        "int64": torch.tensor([-(2**63), 2**63 - 1, 0]),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "none at all": torch.zeros(0, dtype=torch.int64),
        "scalar": torch.tensor(2.5),
        "not finite": torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0]),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
    }


def raw_bytes(tensor):
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def assert_same(found, written):
    assert found.keys() == written.keys()
    for name, tensor in written.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert raw_bytes(found[name]) == raw_bytes(tensor), name


@pytest.fixture
def path(tmp_path):
    """A good checkpoint."""
    path = tmp_path / "trial.safetensors"
    write_checkpoint(path, "trial", tensors(), META)
    return path


def assert_refused(path, reason=None, kind="trial"):
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_checkpoint(path, kind)
    assert str(path) in str(caught.value)


def rewrite(path, change):
    """Write the file anew with another library's hand, its tensors and metadata changed on the way."""
    with safe_open(path, framework="pt") as opened:
        header = opened.metadata()
    found = load_file(path)
    change(found, header)
    save_file(found, path, metadata=header)


def test_tensors_of_every_kind_and_json_values_come_back_bit_for_bit(path):
    found, meta = read_checkpoint(path, "trial")
    assert_same(found, tensors())
    assert meta == META


@pytest.mark.parametrize("name", tensors())
def test_each_kind_of_tensor_comes_back_alone(tmp_path, name):
    path = tmp_path / "one.safetensors"
    written = {name: tensors()[name]}
    write_checkpoint(path, "reference", written, {})
    assert_same(read_checkpoint(path, "reference")[0], written)


def test_a_checkpoint_may_hold_no_tensor(tmp_path):
    write_checkpoint(tmp_path / "a", "trial", {}, META)
    assert read_checkpoint(tmp_path / "a", "trial") == ({}, META)


def test_floats_in_the_json_values_come_back_exactly(tmp_path):
    numbers = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 2.0**-1074 * 3]
    write_checkpoint(tmp_path / "a", "trial", {}, {"numbers": numbers})
    assert read_checkpoint(tmp_path / "a", "trial")[1]["numbers"] == numbers


def test_tensors_that_share_memory_come_back_whole(tmp_path):
    shared = torch.arange(4.0)
    written = {"one": shared, "two": shared, "part": shared[:2]}
    write_checkpoint(tmp_path / "a", "generator", written, {})
    assert_same(read_checkpoint(tmp_path / "a", "generator")[0], written)


def test_tensors_that_take_a_gradient_are_written_as_values(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2))
    write_checkpoint(tmp_path / "a", "trial", {"weight": weight}, {})
    found = read_checkpoint(tmp_path / "a", "trial")[0]["weight"]
    assert not found.requires_grad
    assert torch.equal(found, torch.ones(2))


def test_missing_folders_are_made(tmp_path):
    path = tmp_path / "deep" / "deeper" / "a.safetensors"
    write_checkpoint(path, "trial", tensors(), META)
    assert_same(read_checkpoint(path, "trial")[0], tensors())


def test_what_was_read_outlives_the_file(path):
    found, _ = read_checkpoint(path, "trial")
    path.write_bytes(bytes(path.stat().st_size))
    assert_same(found, tensors())


def test_a_truncated_file_is_refused_at_any_length(path):
    whole = path.read_bytes()
    lengths = {0, 1, 7, 8, 9, len(whole) - 1, len(whole) - 8, *range(0, len(whole), 37)}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        assert_refused(path)


def test_a_file_with_something_appended_is_refused(path):
    whole = path.read_bytes()
    for extra in (b"\0", b"{}", whole):
        path.write_bytes(whole + extra)
        assert_refused(path)


def test_a_single_changed_bit_of_the_tensors_is_refused(path):
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    draws = random.Random(1)
    for place in draws.sample(range(start, len(whole)), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draws.randrange(8)
        path.write_bytes(damaged)
        assert_refused(path, "does not match its checksum")


@pytest.mark.parametrize("kind", ["generator", "reference"])
def test_a_checkpoint_of_another_kind_is_refused(path, kind):
    assert_refused(path, f"holds a trial, not a {kind}", kind=kind)


def test_a_kind_that_was_rewritten_is_refused(path):
    rewrite(path, lambda found, header: header.update(kind="generator"))
    assert_refused(path, "does not match its checksum", kind="generator")


def test_a_missing_file_is_refused(tmp_path):
    assert_refused(tmp_path / "nowhere" / "a.safetensors", "no such checkpoint")


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path):
    assert_refused(tmp_path)


def test_a_path_through_a_file_is_refused(path):
    assert_refused(path / "below.safetensors")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=["bare", "with metadata"])
def test_a_foreign_safetensors_file_is_refused(tmp_path, metadata):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.ones(3)}, path, metadata=metadata)
    assert_refused(path, "not written by gantune")


def test_a_file_of_a_later_format_is_refused_with_both_versions(path):
    rewrite(path, lambda found, header: header.update(gantune="2"))
    assert_refused(path, "format version 2; this gantune reads 1")


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def pickled(draws, path):
    """A pickle that makes a folder when it is loaded: bare, as torch writes it, or in the place of the tensors."""
    marker = path.with_name("ran")
    form = draws.randrange(3)
    if form == 0:
        return pickle.dumps({"weight": draws.random(), "payload": Payload(marker)}, protocol=draws.randrange(6))
    if form == 1:
        stream = io.BytesIO()
        torch.save({"weight": torch.ones(draws.randrange(9)), "payload": Payload(marker)}, stream)
        return stream.getvalue()
    whole, payload = path.read_bytes(), pickle.dumps(Payload(marker))
    return whole[: header_end(whole)] + payload.ljust(len(whole) - header_end(whole), b"\0")


def header_end(whole):
    return 8 + int.from_bytes(whole[:8], "little")


def truncated(draws, path):
    whole = path.read_bytes()
    return whole[: draws.randrange(1, len(whole))]


def with_a_bit_flipped(draws, path):
    damaged = bytearray(path.read_bytes())
    damaged[draws.randrange(len(damaged))] ^= 1 << draws.randrange(8)
    return bytes(damaged)


def with_bytes_changed(draws, path):
    damaged = bytearray(path.read_bytes())
    for place in draws.sample(range(len(damaged)), draws.randrange(1, 9)):
        damaged[place] ^= draws.randrange(128, 256)
    return bytes(damaged)


def with_another_header_length(draws, path):
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    told = draws.choice(
        [draws.randrange(2 * length), draws.randrange(len(whole), 2**32), draws.randrange(2**63, 2**64)]
    )
    return (told + (told == length)).to_bytes(8, "little") + whole[8:]


def of_another_kind(draws, path):
    other = path.with_name("other")
    write_checkpoint(other, draws.choice(["generator", "reference"]), tensors(), META)
    return other.read_bytes()


def with_other_values(draws, path):
    score = repr(draws.random())
    rewrite(path, lambda found, header: header.update(meta=header["meta"].replace("1.25", score)))
    return path.read_bytes()


def with_other_tensors(draws, path):
    def change(found, header):
        name = draws.choice(sorted(name for name, tensor in found.items() if tensor.numel()))
        damaged = bytearray(raw_bytes(found[name]))
        if found[name].dtype == torch.bool:
            damaged[0] ^= 1
        else:
            damaged[draws.randrange(len(damaged))] ^= 1 << draws.randrange(8)
        found[name] = torch.frombuffer(damaged, dtype=found[name].dtype).reshape(found[name].shape)

    rewrite(path, change)
    return path.read_bytes()


def random_bytes(draws, path):
    return draws.randbytes(draws.randrange(1, 4000))


def empty(draws, path):
    return b""


DAMAGES = [
    truncated,
    with_a_bit_flipped,
    with_bytes_changed,
    with_a_bit_flipped,
    with_bytes_changed,
    with_another_header_length,
    of_another_kind,
    with_other_values,
    with_other_tensors,
    pickled,
    random_bytes,
    empty,
]


def test_two_hundred_damaged_checkpoints_are_each_refused_by_name_and_none_runs_a_payload(path):
    draws = random.Random(0)
    whole = path.read_bytes()
    for number in range(200):
        path.write_bytes(whole)
        damaged = DAMAGES[number % len(DAMAGES)](draws, path)
        assert damaged != whole
        path.write_bytes(damaged)
        assert_refused(path)
    marker = path.with_name("ran")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # the payload is a real one


def test_a_changed_length_of_the_header_is_refused_whichever_byte_it_is(path):
    whole = path.read_bytes()
    for place in range(8):
        for change in (1, 128, 255):
            damaged = bytearray(whole)
            damaged[place] ^= change
            path.write_bytes(damaged)
            assert_refused(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 64, b"version: 1\nname: dcgan\n" * 9, bytes(64)])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "trial.safetensors"
    path.write_bytes(content)
    assert_refused(path)


def drop_a_tensor(found, header):
    del found["uint8"]


def add_a_tensor(found, header):
    found["more"] = torch.zeros(1)


def rename_a_tensor(found, header):
    found["float33"] = found.pop("float32")


def swap_two_tensors(found, header):
    found["empty"], found["none at all"] = found["none at all"], found["empty"]


def reshape_a_tensor(found, header):
    found["float32"] = found["float32"].reshape(4, 3)


def reread_a_tensor(found, header):
    found["float16"] = found["float16"].view(torch.bfloat16)


def change_the_score(found, header):
    header["meta"] = header["meta"].replace("1.25", "0.25")


def drop_the_values(found, header):
    del header["meta"]


def empty_the_values(found, header):
    header["meta"] = ""


def drop_the_checksum(found, header):
    del header["sha256"]


def empty_the_checksum(found, header):
    header["sha256"] = ""


def drop_the_kind(found, header):
    del header["kind"]


@pytest.mark.parametrize(
    "change",
    [
        drop_a_tensor,
        add_a_tensor,
        rename_a_tensor,
        swap_two_tensors,
        reshape_a_tensor,
        reread_a_tensor,
        change_the_score,
        drop_the_values,
        empty_the_values,
        drop_the_checksum,
        empty_the_checksum,
        drop_the_kind,
    ],
    ids=lambda change: change.__name__,
)
def test_a_file_that_was_altered_and_written_anew_is_refused(path, change):
    rewrite(path, lambda found, header: None)
    assert_same(read_checkpoint(path, "trial")[0], tensors())  # rewritten as it was, it is still good
    rewrite(path, change)
    assert_refused(path)


@pytest.mark.parametrize("text", ["", "not json", "[1, 2]", "3", "null"])
def test_values_that_are_no_json_object_are_refused_even_under_a_right_checksum(tmp_path, monkeypatch, text):
    path = tmp_path / "trial.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.json, "dumps", lambda *args, **kwargs: text)
        write_checkpoint(path, "trial", tensors(), {})
    assert_refused(path)


def test_a_write_replaces_the_file_and_leaves_nothing_beside_it(path):
    write_checkpoint(path, "trial", {"new": torch.ones(1)}, {})
    assert_same(read_checkpoint(path, "trial")[0], {"new": torch.ones(1)})
    assert list(path.parent.iterdir()) == [path]


def refuse(*args, **kwargs):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stage", ["replace", "fsync"])
def test_a_failing_write_keeps_the_old_file_and_leaves_no_part(path, monkeypatch, stage):
    before = path.read_bytes()
    monkeypatch.setattr(os, stage, refuse)
    with pytest.raises(CheckpointError, match="cannot be written: No space left on device") as caught:
        write_checkpoint(path, "trial", {"new": torch.ones(1)}, {})
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_first_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_checkpoint(tmp_path / "a.safetensors", "trial", tensors(), META)
    assert list(tmp_path.iterdir()) == []


def test_readers_see_the_old_file_until_the_new_one_is_whole(path, monkeypatch):
    seen = []
    replace = os.replace

    def look_then_replace(source, target):
        seen.append(read_checkpoint(path, "trial")[1])
        seen.append(read_checkpoint(source, "trial")[1])
        replace(source, target)

    monkeypatch.setattr(os, "replace", look_then_replace)
    write_checkpoint(path, "trial", {}, {"new": 1})
    assert seen == [META, {"new": 1}]


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_path_without_a_name_is_a_folder_to_whoever_would_write_there(name):
    with pytest.raises(IsADirectoryError), whole(Path(name)):
        raise AssertionError("nothing is to be made")


def test_a_folder_that_cannot_be_made_is_a_checkpoint_error(path):
    with pytest.raises(CheckpointError, match="cannot be written") as caught:
        write_checkpoint(path / "below" / "a.safetensors", "trial", {}, {})
    assert str(path / "below" / "a.safetensors") in str(caught.value)


def test_a_folder_in_the_place_of_the_target_is_a_checkpoint_error(tmp_path):
    target = tmp_path / "a.safetensors"
    (target / "inside").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_checkpoint(target, "trial", {}, {})
    assert list(tmp_path.iterdir()) == [target]
