"""Vectors of other tools: what is read is what stands in the file, and whatever is wrong with one is told."""

import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray import storage
from mmray.errors import ConfigError
from mmray.tables import foreign, idx

Make = Callable[[Path], Path]
MATRIX = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
IDS = ["ü", "b", "c/1", "d", "e"]


def idx_file(path: Path, values: np.ndarray, sizes: tuple[int, ...] | None = None, kind: int = 8) -> Path:
    sizes = sizes if sizes is not None else values.shape
    data = struct.pack(f">BBBB{len(sizes)}I", 0, 0, kind, len(sizes), *sizes) + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def npz_file(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def parquet_file(path: Path, embedding: pa.Array, **columns: list[object]) -> Path:
    pq.write_table(pa.table({"sample_id": IDS[: len(embedding)], **columns, "embedding": embedding}), path)
    return path


def vectors(*paths: Path, at_once: int = 2) -> np.ndarray:
    return np.concatenate([chunk for one in foreign.read(list(map(str, paths))) for chunk in one.chunks(at_once)])


def fixed(matrix: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def test_pictures_of_an_idx_file_are_numbers_from_0_to_1(tmp_path: Path) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (11, 4, 3))
    images = idx_file(tmp_path / "train-images-idx3-ubyte.gz", pictures)
    labels = idx_file(tmp_path / "train-labels-idx1-ubyte", np.arange(11))
    (found,) = foreign.read([str(images), str(labels)])
    assert found.columns["sample_id"].to_pylist()[::10] == ["train-images/00", "train-images/10"]
    assert found.columns["label"].to_pylist() == [str(n) for n in range(11)]
    expected = pictures.reshape(11, 12).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(vectors(images, labels), expected)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a/train-images-idx3-ubyte.gz", "train-images"), ("t10k-images.idx3-ubyte", "t10k-images"), ("x.y.idx", "x.y")],
)
def test_samples_are_named_by_their_file(name: str, stem: str) -> None:
    assert idx.stem(name) == stem


def test_the_real_mnist_is_read_as_it_is(test_data: Path) -> None:
    folder = test_data / "digits" / "mnist"
    names = ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    (found,) = foreign.read([str(folder / name) for name in names])
    raw = gzip.decompress((folder / names[0]).read_bytes())
    (first, *_) = found.chunks(100)
    np.testing.assert_array_equal(np.round(first * 255), np.frombuffer(raw, np.uint8)[16:].reshape(-1, 784)[:100])
    assert (found.columns.num_rows, found.dim) == (10_000, 784)
    assert found.columns["label"].to_pylist()[:5] == ["7", "2", "1", "0", "4"]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4", np.int32])
def test_an_npz_of_any_numbers_is_read(tmp_path: Path, kind: type) -> None:
    matrix = (MATRIX * 10).astype(kind)
    path = npz_file(tmp_path / "a.npz", ids=np.array(IDS), matrix=matrix, labels=np.array(["x", "", "", "y", "x"]))
    (found,) = foreign.read([str(path)])
    assert found.columns.to_pydict() == {"sample_id": IDS, "label": ["x", None, None, "y", "x"]}
    np.testing.assert_array_equal(vectors(path), matrix.astype(np.float32))


def test_a_file_without_samples_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sample_id,e0,e1\n")
    files = [tmp_path / "a.csv", npz_file(tmp_path / "a.npz", ids=np.array([], "U1"), matrix=MATRIX[:0])]
    for file in files:
        with pytest.raises(ConfigError, match=f"{file.name}: holds no sample"):
            foreign.read([str(file)])


def test_whole_numbers_may_be_ids(tmp_path: Path) -> None:
    path = npz_file(tmp_path / "a.npz", ids=np.arange(5), matrix=MATRIX)
    assert foreign.read([str(path)])[0].columns["sample_id"].to_pylist() == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    "embedding",
    [
        fixed(MATRIX),
        fixed(MATRIX.astype(np.float64)),
        pa.array(list(MATRIX)),
        pa.array(list(MATRIX)).cast(pa.large_list(pa.float32())),
    ],
    ids=lambda one: str(one.type),
)
def test_any_lists_of_parquet_are_read(tmp_path: Path, embedding: pa.Array) -> None:
    path = parquet_file(tmp_path / "a.parquet", embedding, fold=[1, 2, 3, 4, None], label=[1, 2, 3, 4, 5])
    (found,) = foreign.read([str(path)])
    assert found.columns["fold"].to_pylist() == [1, 2, 3, 4, None]
    assert found.columns["label"].to_pylist() == ["1", "2", "3", "4", "5"]
    np.testing.assert_array_equal(vectors(path), MATRIX)


def test_what_parquet_does_not_have_is_nan(tmp_path: Path) -> None:
    path = parquet_file(tmp_path / "a.parquet", pa.array([None, [1.0, None, 3.0], [1e300, 0.0, 0.0]]))
    found = vectors(path)
    np.testing.assert_array_equal(np.isfinite(found), [[False] * 3, [True, False, True], [False, True, True]])


def test_csv_has_a_column_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('sample_id,label,e0,e1,fold\n007,1,0.5,-1e-3,2\n"a, b",,nan,,3\n')
    (found,) = foreign.read([str(path)])
    assert found.columns.to_pydict() == {"sample_id": ["007", "a, b"], "label": ["1", None], "fold": [2, 3]}
    np.testing.assert_array_equal(vectors(path), np.array([[0.5, -1e-3], [np.nan, np.nan]], np.float32))


def test_a_bucket_is_read_like_a_folder(tmp_path: Path, s3_bucket: str) -> None:
    for name in ("a.npz", "b.parquet", "c.csv", "d-idx2-ubyte.gz"):
        path = tmp_path / name
        if name == "a.npz":
            npz_file(path, ids=np.array(["a"]), matrix=MATRIX[:1])
        elif name == "b.parquet":
            parquet_file(path, fixed(MATRIX))
        elif name == "c.csv":
            path.write_text("sample_id,e0,e1,e2\nz,1,2,3\n")
        else:
            idx_file(path, np.ones((2, 3)))
        storage.put(f"{s3_bucket}/{name}", path.read_bytes())
    found = foreign.read([f"{s3_bucket}/{name}" for name in ("a.npz", "b.parquet", "c.csv", "d-idx2-ubyte.gz")])
    assert [sum(len(chunk) for chunk in one.chunks(2)) for one in found] == [1, 5, 1, 2]


def lying_npz(path: Path) -> Path:
    """Say that there are 10**12 vectors."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)})
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("ids.npy", b"")
        packed.writestr("matrix.npy", header.getvalue() + MATRIX.tobytes())
    return path


def bomb(path: Path) -> Path:
    """Give far more than the header says: 64 MB out of 64 KB."""
    data = struct.pack(">BBBBII", 0, 0, 8, 2, 10, 10) + bytes(64 * 2**20)
    path.write_bytes(gzip.compress(data))
    return path


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def cut(path: Path) -> Path:
    return written(path, path.read_bytes()[:-9])


def scratched(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    place = data.index(MATRIX.tobytes())
    data[place] ^= 1
    return written(path, bytes(data))


OBJECTS = np.array([{"a": 1}] * 5, dtype=object)
WRONG: list[tuple[str, Make, str]] = [
    ("empty", lambda f: written(f / "a.npz", b""), "is empty"),
    ("nothing there", lambda f: f / "a.csv", "there is no such file"),
    ("a folder", lambda f: f, "is a folder"),
    ("another format", lambda f: written(f / "a.pkl", pickle.dumps(MATRIX)), "give .npz, .csv, .parquet or an IDX"),
    ("wrong magic", lambda f: written(f / "a-idx3-ubyte", b"\1\2\3\4"), "is no IDX file .it begins with 01 02 03 04"),
    ("cut in the magic", lambda f: written(f / "a-idx3-ubyte", b"\0\0\x08"), "is no IDX file"),
    ("cut in the header", lambda f: written(f / "a", b"\0\0\x08\3\0\0"), "ends within its header"),
    ("floats", lambda f: idx_file(f / "a.idx", np.zeros((2, 2)), kind=13), "type 0x0d; only unsigned bytes"),
    ("too little", lambda f: idx_file(f / "a.idx", np.zeros((2, 4)), (3, 4)), "3 x 4 = 12 bytes, and it holds 8"),
    ("too much", lambda f: idx_file(f / "a.gz", np.zeros((4, 4)), (3, 4)), "12 bytes, and it holds more"),
    ("lying", lambda f: idx_file(f / "a.gz", np.zeros((4, 4)), (2**32 - 1, 2**32 - 1)), "at most 10000000 samples"),
    ("a bomb", lambda f: bomb(f / "a.gz"), "10 x 10 = 100 bytes, and it holds more"),
    ("no sample", lambda f: idx_file(f / "a.idx", np.zeros((0, 4))), "holds no sample"),
    ("cut gz", lambda f: cut(idx_file(f / "a.gz", np.zeros((9, 99)))), "cannot be read: Compressed file ended"),
    ("no gz", lambda f: written(f / "a-idx3-ubyte.gz", "hello"), "cannot be read: Not a gzipped file"),
    ("labels alone", lambda f: idx_file(f / "a.idx", np.zeros(3)), "name the file of their vectors before it"),
    ("no zip", lambda f: written(f / "a.npz", "hello"), "cannot be read"),
    ("objects", lambda f: npz_file(f / "a.npz", ids=np.array(IDS), matrix=OBJECTS), "matrix holds Python objects"),
    ("object ids", lambda f: npz_file(f / "a.npz", ids=OBJECTS, matrix=MATRIX), "ids holds Python objects"),
    ("one dimension", lambda f: npz_file(f / "a.npz", ids=np.array(IDS), matrix=MATRIX[:, 0]), "not numbers of shape"),
    ("texts", lambda f: npz_file(f / "a.npz", ids=np.array(IDS), matrix=np.array([IDS] * 5)), "not numbers of shape"),
    ("no ids", lambda f: npz_file(f / "a.npz", matrix=MATRIX), "has no array 'ids' .it has: matrix.npy"),
    ("few ids", lambda f: npz_file(f / "a.npz", ids=np.array(IDS[1:]), matrix=MATRIX), "4 sample_ids, and 5 vectors"),
    ("by column", lambda f: npz_file(f / "a.npz", ids=np.array(IDS), matrix=np.asfortranarray(MATRIX)), "ascontiguous"),
    ("lying npz", lambda f: lying_npz(f / "a.npz"), r"the header of matrix says float32 \(1000000000000, 3\)"),
    ("no vectors", lambda f: npz_file(f / "a.npz", ids=np.array(IDS), matrix=MATRIX[:, :0]), "vectors of 0 numbers"),
    ("doubled", lambda f: npz_file(f / "a.npz", ids=np.array(["a"] * 5), matrix=MATRIX), "rows 1 and 2 have the same"),
    ("no embedding", lambda f: parquet_file(f / "a.parquet", pa.array([1, 2])), "no column 'embedding' of lists"),
    ("texts in lists", lambda f: parquet_file(f / "a.parquet", pa.array([["a"]])), "no column 'embedding' of lists"),
    ("no parquet", lambda f: written(f / "a.parquet", "PAR1 no"), "cannot be read"),
    ("csv of nothing", lambda f: written(f / "a.csv", "sample_id,x\na,1\n"), r"columns e0, e1, e2"),
    ("a gap", lambda f: written(f / "a.csv", "sample_id,e0,e2\na,1,2\n"), r"columns e0, e1, e2"),
    ("no id", lambda f: written(f / "a.csv", "id,e0\na,1\n"), "'sample_id' is missing"),
    ("ragged csv", lambda f: written(f / "a.csv", "sample_id,e0,e1\na,1\n"), "Expected 3 columns, got 2"),
]


@pytest.mark.parametrize(("make", "said"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, make: Make, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as told:
        foreign.read([str(make(tmp_path))])
    assert str(tmp_path) in str(told.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda f: parquet_file(f / "a.parquet", pa.array([[1.0, 2.0], [3.0]])), "row 2 has a vector of 1 numbers"),
        (lambda f: written(f / "a.csv", "sample_id,e0\na,1\nb,hello\n"), "'hello'"),
        (lambda f: scratched(npz_file(f / "a.npz", ids=np.array(IDS), matrix=MATRIX)), "Bad CRC-32"),
    ],
    ids=["lengths", "text", "bits"],
)
def test_what_is_wrong_with_a_row_is_told(tmp_path: Path, make: Make, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        vectors(make(tmp_path), at_once=1)


def test_files_that_do_not_go_together_are_told(tmp_path: Path) -> None:
    wide = idx_file(tmp_path / "a.idx", np.zeros((2, 4)))
    narrow = idx_file(tmp_path / "b.idx", np.zeros((2, 3)))
    labels = idx_file(tmp_path / "l.idx", np.zeros(3))
    with pytest.raises(ConfigError, match=r"b\.idx: has vectors of 3 numbers, and .*a\.idx of 4"):
        foreign.read([str(wide), str(narrow)])
    with pytest.raises(ConfigError, match=r"l\.idx: holds 3 labels, and .*a\.idx 2 vectors"):
        foreign.read([str(wide), str(labels)])
    labels = idx_file(tmp_path / "l.idx", np.zeros(2))
    with pytest.raises(ConfigError, match="has labels already"):
        foreign.read([str(wide), str(labels), str(labels)])


@pytest.mark.parametrize("label", ["NA", "null", "nan", "two\nlines", 'a "quoted", word'])
def test_a_quoted_word_of_csv_is_a_word_and_nothing_is_nothing(tmp_path: Path, label: str) -> None:
    quoted = '"' + label.replace('"', '""') + '"'
    rows = [f"s{n},{quoted},{n}.5,1" for n in range(50_000)]  # several blocks, which lines in quotes cross
    (tmp_path / "v.csv").write_text("\n".join(["sample_id,label,e0,e1", *rows, "x,NA,1,1", "y,,1,1", 'z,"",1,1']))
    (found,) = foreign.read([str(tmp_path / "v.csv")])
    assert set(found.columns["label"].to_pylist()[:-3]) == {label}
    assert found.columns["label"].to_pylist()[-3:] == [None] * 3
    assert vectors(tmp_path / "v.csv", at_once=9_000).shape == (50_003, 2)
