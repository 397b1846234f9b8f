"""A pickle is read for its tensors, whatever else it would like to do: nothing of it ever runs."""

import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from mmray.errors import ConfigError
from mmray.models.pickled import Pickled
from mmray.models.tiny import make_tiny


class Calls:
    """Pickles as a call of ``function``, as anybody's object may."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(path, data, **files):
    """Write what torch.save writes, around any bytes."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("net/data.pkl", data if isinstance(data, bytes) else pickle.dumps(data, 2))
        for name, content in files.items():
            file.writestr(f"net/data/{name.removeprefix('_')}", content)
    return str(path)


@dataclass
class Storage:
    key: object
    kind: type


class Saver(pickle.Pickler):
    def persistent_id(self, found):
        return ("storage", found.kind, found.key, "cpu", 2) if isinstance(found, Storage) else None


def tensor(key="0", offset=0, shape=(2,), stride=(1,), kind=torch.FloatStorage):
    """Return the pickle of a state dictionary with one tensor ``w``, described as one likes."""
    data = io.BytesIO()
    described = Calls(torch._utils._rebuild_tensor_v2, Storage(key, kind), offset, shape, stride, False, OrderedDict())
    Saver(data, 2).dump({"w": described})
    return data.getvalue()


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny(folder, names=["yolov7"])
    return str(folder / "yolov7" / "yolov7-tiny.pt")


def test_tensors_are_those_that_torch_saved(tmp_path):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "whole": base,
        "part": base[1:3, 2:5],
        "turned": base.T,
        "half": torch.randn(3, 3).half(),
        "brain": torch.randn(5).bfloat16(),
        "double": torch.randn(2).double(),
        "count": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }
    torch.save(OrderedDict(tensors), tmp_path / "a.pt")
    found = Pickled(str(tmp_path / "a.pt"))
    assert found.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name, array in found.arrays().items():
        expected = tensors[name].detach()
        expected = expected.float() if expected.dtype in (torch.half, torch.bfloat16) else expected
        np.testing.assert_array_equal(array, expected.numpy())
        assert array.dtype == expected.numpy().dtype
        assert array.flags.owndata or array.base.flags.owndata


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_modules_are_walked_by_the_names_torch_gives_them(tmp_path, protocol):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Sequential(torch.nn.BatchNorm2d(4)))
    torch.save({"model": module, "epoch": 3}, tmp_path / "a.pt", pickle_protocol=protocol)
    found = Pickled(str(tmp_path / "a.pt")).arrays()
    expected = module.state_dict()
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name].numpy())


def test_the_averaged_network_counts_where_there_is_one(tmp_path):
    raw, averaged = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    torch.save({"model": raw, "ema": averaged, "best_fitness": np.array([0.5])}, tmp_path / "a.pt")
    np.testing.assert_array_equal(Pickled(str(tmp_path / "a.pt")).arrays()["weight"], averaged.weight.detach().numpy())
    torch.save({"model": raw, "ema": None}, tmp_path / "b.pt")
    np.testing.assert_array_equal(Pickled(str(tmp_path / "b.pt")).arrays()["weight"], raw.weight.detach().numpy())


def test_the_root_of_a_release_tells_about_itself(release):
    found = Pickled(release)
    assert found.about["names"][:2] == ["person", "bicycle"]
    assert found.shapes["model.77.anchor_grid"] == (3, 1, 3, 1, 1, 2)
    assert all(array.dtype != np.float16 for array in found.arrays().values())


def test_reading_loads_neither_torch_nor_the_authors_code(release):
    code = f"import sys; from mmray.models.pickled import Pickled as P; P({release!r}).arrays(); print([*sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'numpy'" in loaded
    assert "'torch" not in loaded
    assert "'models" not in loaded


ATTACKS = {
    "os.system": lambda mark: Calls(os.system, f"touch {mark}"),
    "builtins.eval": lambda mark: Calls(eval, f"open({mark!r}, 'w')"),
    "builtins.exec": lambda mark: Calls(exec, f"open({mark!r}, 'w')"),
    "builtins.open": lambda mark: Calls(open, mark, "w"),
    "builtins.getattr": lambda mark: Calls(getattr, Calls(__import__, "os"), "system"),
    "subprocess.Popen": lambda mark: Calls(subprocess.Popen, ["touch", mark]),
    "torch.load": lambda mark: Calls(torch.load, mark),
    "torch.serialization": lambda mark: Calls(torch.save, {}, mark),
    "functools.partial": lambda mark: Calls(__import__("functools").partial, print),
    "operator.attrgetter": lambda mark: Calls(__import__("operator").attrgetter, "system"),
    "importlib.import_module": lambda mark: Calls(__import__("importlib").import_module, "os"),
}


@pytest.mark.parametrize("forbidden", ATTACKS)
@pytest.mark.parametrize("where", ["root", "model", "deep", "key"])
def test_no_program_runs(tmp_path, forbidden, where):
    mark = tmp_path / "was_here"
    attack = ATTACKS[forbidden](str(mark))
    root = {
        "root": attack,
        "model": {"model": attack},
        "deep": {"model": OrderedDict(a=[({"b": attack},)])},
        "key": [(attack, 1)],
    }[where]
    data = pickle.dumps(root, 2)
    path = archive(tmp_path / "evil.pt", data)
    with pytest.raises(ConfigError) as refused:
        Pickled(path)
    asked = {value.replace(" ", ".") for code, value, _ in pickletools.genops(data) if code.name == "GLOBAL"}
    assert any(f"{path}: is a pickle that asks for {name}," in str(refused.value) for name in asked)
    assert not mark.exists()


def test_a_name_that_only_looks_like_a_networks_imports_nothing(tmp_path):
    """``models.`` and ``torch.nn.modules.`` stand for records, even where such a module would do harm."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    (tmp_path / "models" / "evil.py").write_text(f"open({str(tmp_path / 'was_here')!r}, 'w')")
    program = b"\x80\x02cmodels.evil\nRun\n(X\x02\x00\x00\x00lstR}X\x01\x00\x00\x00aK\x01sb."
    path = archive(tmp_path / "evil.pt", program)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from mmray.models.pickled import Pickled as P; P({path!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "holds no tensors" in done.stderr
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize(
    "target",
    [b"cmodels.yolo\nModel\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n",
     b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nFloatStorage\n", b"c__builtin__\nset\n"],
)  # fmt: skip
@pytest.mark.parametrize("state", [b"}X\x0c\x00\x00\x00__setstate__K\x01s", b"N}X\x07\x00\x00\x00__new__K\x01s\x86"])
def test_what_a_program_fetches_it_cannot_change(tmp_path, release, target, state):
    """BUILD on a class, with a dictionary or with slots, is where a state becomes an attribute."""
    before = Pickled(release).shapes
    with pytest.raises(ConfigError, match="damaged"):
        Pickled(archive(tmp_path / "evil.pt", b"\x80\x02" + target + state + b"b."))
    assert Pickled(release).shapes == before


def test_a_states_own_methods_are_never_called(tmp_path):
    """Attributes named like methods are data: the tree is walked by the real ones."""
    module = torch.nn.Linear(2, 2)
    module.__dict__.update(items="x", state="y", __setstate__="z")
    module.__dict__["_buffers"] = [1, 2]
    module.__dict__["_modules"] = {"a": 5, 3: None}
    torch.save({"model": module}, tmp_path / "a.pt")
    assert Pickled(str(tmp_path / "a.pt")).shapes == {"weight": (2, 2), "bias": (2,)}


@pytest.mark.parametrize(
    "program, why",
    [
        (b"\x80\x02]r\xff\xff\xff\x7f.", "LONG_BINPUT"),  # would reserve 16 GB of memory slots
        (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "damaged"),  # a bytearray of 1 TB
        (b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b".", "damaged"),  # a text of 1 TB
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02(cos\nsystem\no.", "OBJ"),
        (b"(ios\nsystem\n.", "INST"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x02K\x01", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"", "damaged"),
        (b"\x80\x02K\x01.", "holds int"),
        (b"\x80\x02}X\x01\x00\x00\x00ah\x00s.", "damaged"),
        (b"\x80\x02}X\x05\x00\x00\x00modelNs.", "no tensors"),
    ],
)
def test_programs_that_make_no_sense_are_refused(tmp_path, program, why):
    with pytest.raises(ConfigError, match=why):
        Pickled(archive(tmp_path / "evil.pt", program))


def test_a_tensor_written_by_hand_is_read(tmp_path):
    path = archive(tmp_path / "a.pt", tensor(), _0=np.array([1, 2], "<f4").tobytes())
    np.testing.assert_array_equal(Pickled(path).arrays()["w"], [1, 2])


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (3,)},
        {"offset": 1},
        {"offset": 2**40},
        {"stride": (2,)},
        {"shape": (2**30, 2**30), "stride": (0, 0)},  # a million million million numbers out of one
        {"shape": (4,), "stride": (0,)},
        {"shape": (-1,)},
        {"offset": -1},
        {"stride": (-1,)},
        {"shape": (1.5,)},
        {"shape": ("a",)},
        {"shape": (1, 2)},
        {"shape": (1,) * 9, "stride": (1,) * 9},
        {"key": "9"},
        {"key": "../data.pkl"},
        {"key": 0},
        {"kind": torch.DoubleStorage},
        {"kind": torch.Size},
    ],
    ids=str,
)
def test_a_tensor_reaches_no_further_than_its_numbers(tmp_path, changes):
    path = archive(tmp_path / "a.pt", tensor(**changes), _0=np.array([1, 2], "<f4").tobytes())
    with pytest.raises(ConfigError, match=r"tensor 'w'"):
        Pickled(path)


def with_lengths(path, name, stored=None, told=None):
    """Change the lengths that the central directory tells of one part."""
    data = bytearray(Path(path).read_bytes())
    start = data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))
    for place, length in ((20, stored), (24, told)):
        if length is not None:
            struct.pack_into("<I", data, start + place, length)
    Path(path).write_bytes(data)


@pytest.mark.parametrize("stored", [None, "as told"])
@pytest.mark.parametrize("told", [20, 24, 64, 200, "file", 2**24, 2**31, 2**32 - 2])
def test_a_storage_is_as_long_as_its_bytes_whatever_the_archive_says(tmp_path, stored, told):
    """A length beyond the bytes that are there once gave what lay behind them in memory."""
    path = archive(tmp_path / "a.pt", tensor(shape=(5,)), _0=np.arange(4, dtype="<f4").tobytes())
    told = Path(path).stat().st_size if told == "file" else told
    with_lengths(path, "net/data/0", told if stored else None, told)
    with pytest.raises(ConfigError, match=rf"{path}: "):
        Pickled(path).arrays()


def test_a_file_that_shrinks_after_it_was_looked_at_is_refused(tmp_path):
    path = archive(tmp_path / "a.pt", tensor(shape=(4,)), _0=np.arange(4, dtype="<f4").tobytes())
    found = Pickled(path)
    archive(path, tensor(), _0=np.arange(2, dtype="<f4").tobytes())
    with pytest.raises(ConfigError, match=r"tensor 'w' reaches beyond the 8 bytes"):
        found.arrays()


@pytest.mark.parametrize(
    ("shape", "stride"),
    [
        ((1,), (2**70,)),
        ((0, 2**62, 2**62), (1, 1, 1)),
        ((0, 2**70), (1, 1)),
        ((2**70, 0), (1, 1)),
        ((1, 2), (2**70, 1)),
    ],
)
def test_lengths_and_steps_beyond_all_bounds_do_no_harm(tmp_path, shape, stride):
    path = archive(tmp_path / "a.pt", tensor(shape=shape, stride=stride), _0=np.array([1, 2], "<f4").tobytes())
    try:
        assert Pickled(path).arrays()["w"].ravel().tolist() in ([1], [1, 2])  # the step of a single row is never taken
    except ConfigError as error:
        assert "tensor 'w'" in str(error)


def small(path):
    """Save a module of every kind of number, and return its tensors as mmray should give them."""
    module = torch.nn.Sequential(
        torch.nn.Linear(5, 3).half(), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2).bfloat16()
    )
    torch.save({"model": module}, path)
    return {name: (t if t.dtype == torch.int64 else t.float()).numpy() for name, t in module.state_dict().items()}


def damaged(data, random):
    """Change some random bytes, or cut at a random place."""
    data = bytearray(data)
    for place in random.integers(0, len(data), random.integers(1, 4)):
        data[place] = random.integers(0, 256)
    return bytes(data[: random.integers(0, len(data))]) if random.random() < 0.2 else bytes(data)


def test_random_damage_to_a_file_gives_a_config_error_or_the_right_tensors(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "a.pt"
    expected = small(path)
    whole, refused = path.read_bytes(), 0
    for _ in range(600):
        path.write_bytes(damaged(whole, random))
        try:
            found = Pickled(str(path)).arrays()
        except ConfigError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
    assert 100 < refused < 600


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # pickletools, at an instruction that is refused
def test_random_damage_to_the_pickle_alone_gives_a_config_error_or_arrays_as_told(tmp_path):
    """The archive's own sums are right: here the pickle itself must be looked at."""
    random = np.random.default_rng(1)
    path = tmp_path / "a.pt"
    small(path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    program, refused = parts.pop("a/data.pkl"), 0
    for _ in range(1000):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", damaged(program, random))
            for name, content in parts.items():
                file.writestr(name, content)
        try:
            found = Pickled(str(path))
            assert {name: array.shape for name, array in found.arrays().items()} == found.shapes
        except ConfigError as error:
            assert str(path) in str(error)
            refused += 1
    assert 100 < refused < 1000


def test_a_file_of_many_views_of_one_storage_is_refused(tmp_path):
    torch.save({f"w{number}": tensor for number, tensor in enumerate([torch.zeros(1000)] * 50)}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="more numbers than the file has bytes"):
        Pickled(str(tmp_path / "a.pt"))


def test_a_tree_without_end_is_refused(tmp_path):
    round_and_round = torch.nn.Module()
    round_and_round.__dict__["_modules"] = {str(number): round_and_round for number in range(3)}
    torch.save({"model": round_and_round}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="modules are more than"):
        Pickled(str(tmp_path / "a.pt"))


def test_a_damaged_archive_is_said_with_its_name(release, tmp_path):
    whole = Path(release).read_bytes()
    for name, content in {
        "cut.pt": whole[: len(whole) // 2],
        "flipped.pt": whole[:60_000] + bytes([whole[60_000] ^ 255]) + whole[60_001:],
        "empty.pt": b"",
        "text.pt": b"not found",
        "old.pt": pickle.dumps({"model": 1}, 2),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            Pickled(str(tmp_path / name)).arrays()
    with pytest.raises(ConfigError, match="cannot be read"):
        Pickled(str(tmp_path / "missing.pt"))
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as file:
        file.writestr("readme", "no network")
    with pytest.raises(ConfigError, match=r"none of torch\.save"):
        Pickled(str(tmp_path / "other.pt"))


def test_compressed_parts_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("net/data.pkl", tensor(shape=(2**24,)))
        file.writestr("net/data/0", bytes(2**26))
    with pytest.raises(ConfigError, match="compressed"):
        Pickled(str(tmp_path / "bomb.pt"))
