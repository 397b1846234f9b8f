"""Every run finishes and accounts for every sample; what is done is not done again."""

import io
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

import mmray
from mmray.pipelines import cluster
from mmray.pipelines.export import export
from mmray.pipelines.status import retry, status
from mmray.pipelines.verify import verify
from tests.pipelines.conftest import Extract, ledger, rows

PIXELS = {"name": "pixels", "fps": 5, "side_px": 12}
POOLINGS = {
    "yamnet": ["mean", "max", "mean+max", "first", "scores_mean", "scores_max"],
    "yolo_onnx": ["mean", "max", "count"],
}


class Whole(NamedTuple):
    """A finished run that several tests look at: they copy the store before they change it."""

    config: dict[str, Any]
    store: Path
    account: dict[str, Any]
    said: str


@pytest.fixture(scope="module")
def whole(
    ray_session: None, corpus: Path, entries: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Whole:
    """Run seven extractors over the corpus: whole media, one actor, batches of 16."""
    store = tmp_path_factory.mktemp("whole") / "store"
    wanted = [one | {"pooling": POOLINGS[one["name"]]} if one["name"] in POOLINGS else one for one in entries]
    wanted = [one | {"batch_size": 16} for one in [*wanted, PIXELS, {"name": "logmel"}]]
    config = {"manifest": str(corpus), "store": str(store), "extractors": wanted, "resources": {"actors": 1}}
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("mmray").addHandler(handler)
    try:
        return Whole(config, store, mmray.extract(config), said.getvalue())
    finally:
        logging.getLogger("mmray").removeHandler(handler)


@pytest.fixture
def copy(whole: Whole, tmp_path: Path) -> Path:
    """Return a copy of the finished store."""
    return Path(shutil.copytree(whole.store, tmp_path / "store"))


def counts(account: dict[str, Any], name: str) -> dict[str, Any]:
    return next(about for extractor, about in account["accounts"].items() if extractor.startswith(f"{name}-"))


def test_every_sample_is_accounted_for_and_nothing_is_done_twice(whole: Whole, corpus: Path) -> None:
    account, store = whole.account, whole.store
    samples = pl.read_parquet(corpus)
    assert account["samples"] == samples.height
    assert account["adds_up"]
    assert not account["nothing_to_do"]
    assert (counts(account, "descriptors")["failed"], counts(account, "descriptors")["partial"]) == (1, 1)
    assert counts(account, "sbert")["reasons"] == {"no_text": int((samples["text"].str.strip_chars() == "").sum())}
    assert verify(str(store))["ok"], verify(str(store))["broken"]
    assert status(str(store))["accounts"] == account["accounts"]
    assert len(list((store / "ledger").iterdir())) == 1
    assert not list((store / "attempts").iterdir())
    flags = {row["sample_id"]: row for row in pl.read_parquet(store / "segments.parquet").to_dicts()}
    assert (flags["black.mp4"]["black"], flags["black.mp4"]["frozen"], flags["black.mp4"]["silent"]) == (
        True,
        True,
        False,
    )
    assert [name for name, row in flags.items() if row["black"]] == ["black.mp4"]
    assert flags["empty.mp4"]["problem"].startswith("empty")
    written = {path: path.stat().st_mtime_ns for path in store.rglob("*.parquet")}
    again = mmray.extract(whole.config)
    assert again["nothing_to_do"]
    assert again["accounts"] == account["accounts"]
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.parquet")} == written


def test_a_second_run_imports_neither_ray_nor_torch(whole: Whole, tmp_path: Path, light: list[dict[str, Any]]) -> None:
    """These two imports and a Ray start are what a run spends its first seconds on; the README has the figure."""
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(whole.config | {"extractors": light}))
    code = """
import sys
from mmray.cli import main
code = main(["extract", sys.argv[1], "--set", "max_error_rate=1"])
print(sorted({"ray", "torch", "transformers", "av"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code, str(config)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert done.stderr.splitlines()[-1] == "[]", "modules that a run with nothing to do does not need"


def test_adding_an_extractor_runs_that_one_alone(whole: Whole, copy: Path) -> None:
    more = [*whole.config["extractors"], {"name": "pixels", "as": "small", "fps": 1, "side_px": 8}]
    second = mmray.extract(whole.config | {"store": str(copy), "extractors": more})
    frame = pl.read_parquet(f"{copy}/ledger/*.parquet")
    by_run = {name: set(own["extractor"]) for (name,), own in frame.partition_by("run_id", as_dict=True).items()}
    assert by_run[whole.account["run_id"]] == set(whole.account["accounts"])
    assert by_run[second["run_id"]] == set(second["accounts"]) - set(whole.account["accounts"])
    assert len(by_run[second["run_id"]]) == 1


def test_a_changed_field_is_a_new_partition_and_a_new_width_is_not(
    extract: Extract, tmp_path: Path, entries: list[dict[str, Any]]
) -> None:
    pixels = {"name": "pixels", "fps": 2, "side_px": 8}
    first = extract(extractors=[pixels])
    wider = extract(extractors=[pixels | {"batch_size": 1}], resources={"actors": 2, "decode_threads": 1})
    assert wider["nothing_to_do"]
    assert list(wider["accounts"]) == list(first["accounts"])
    changed = extract(extractors=[pixels | {"side_px": 9}])
    assert list(changed["accounts"]) != list(first["accounts"])
    assert len(list((tmp_path / "store" / "windows").iterdir())) == 2
    with pytest.raises(mmray.errors.ConfigError, match="full id"):
        mmray.load(str(tmp_path / "store"), "pixels")


def test_cut_batch_and_actors_change_nothing(whole: Whole, corpus: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    samples = pl.read_parquet(corpus)
    awkward = ~pl.col("sample_id").str.contains("/", literal=True)
    few = pl.concat([samples.filter(~awkward).gather_every(4), samples.filter(awkward)])
    few.write_parquet(tmp_path / "few.parquet")
    narrow = [one | {"batch_size": 1} for one in whole.config["extractors"]]
    config = whole.config | {"manifest": str(tmp_path / "few.parquet"), "store": str(cut), "extractors": narrow}
    mmray.extract(config | {"segment_s": 0.96, "resources": {"actors": 2, "decode_threads": 3}})
    ids = few["sample_id"].to_list()
    segments = [
        pl.read_parquet(store / "segments.parquet").filter(pl.col("sample_id").is_in(ids)).height
        for store in (cut, whole.store)
    ]
    assert segments[0] > 2 * segments[1]
    for name in (one["name"] for one in narrow):
        one, other = (rows(store, name).drop("segment") for store in (whole.store, cut))
        assert_frame_equal(one.filter(pl.col("sample_id").is_in(ids)), other, abs_tol=1e-4, rel_tol=1e-4)
    for pooling in ("mean", "max"):
        one, other = (mmray.load(str(store), "yamnet", pooling) for store in (whole.store, cut))
        same = [one.ids.index(name) for name in other.ids]
        np.testing.assert_allclose(one.matrix[same], other.matrix, atol=1e-4)


def test_a_changed_source_is_redone_and_status_says_so(
    ray_session: None, clips: Path, tmp_path: Path, tiny: Path
) -> None:
    media = tmp_path / "media"
    media.mkdir()
    ones = sorted(path for path in clips.rglob("*.*") if path.stat().st_size > 10_000)[:3]
    for number, path in enumerate(ones):
        (media / f"{number}{path.suffix}").write_bytes(path.read_bytes())
    from mmray.tables import manifest
    from mmray.tables.store import write_parquet

    write_parquet(manifest.gather([str(media)])[0], str(tmp_path / "m.parquet"))
    config = {"manifest": str(tmp_path / "m.parquet"), "store": str(tmp_path / "store")}
    config |= {"extractors": [{"name": "pixels", "side_px": 8}], "segment_s": 0.96, "resources": {"actors": 1}}
    before = mmray.extract(config)
    victim = media / f"0{ones[0].suffix}"
    victim.write_bytes(ones[0].read_bytes() + b"\0")
    seen = status(config["store"])
    assert seen["changed"] == 1
    assert not seen["nothing_to_do"]
    after = mmray.extract(config)
    assert after["changed"] == 1
    assert after["accounts"] == before["accounts"]
    frame = pl.read_parquet(f"{config['store']}/ledger/*.parquet")
    redone = frame.filter(pl.col("run_id") == after["run_id"])["sample_id"].to_list()
    assert set(redone) == {victim.name}
    assert verify(config["store"])["ok"]
    victim.write_bytes(b"")
    (about,) = mmray.extract(config)["accounts"].values()
    assert about["reasons"]["empty"] == 1
    assert victim.name not in rows(config["store"], "pixels")["sample_id"].to_list()
    assert victim.name not in mmray.load(config["store"], "pixels").ids
    assert verify(config["store"])["ok"]


def test_a_file_that_goes_missing_is_a_row_with_its_reason(extract: Extract, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("sample_id,uri\ngone,nowhere/x.mp4\nnone,\n")
    account = extract(manifest=str(tmp_path / "list.csv"), extractors=[{"name": "pixels"}])
    about = counts(account, "pixels")
    assert (about["failed"], about["skipped"]) == (1, 1)
    assert about["reasons"] == {"missing_file": 1, "no_video": 1}


def test_a_limit_leaves_the_rest_pending(extract: Extract, tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    account = extract(limit=3, extractors=entries[:1])
    about = counts(account, "descriptors")
    assert about["pending"] == account["samples"] - 3
    assert account["adds_up"]
    assert status(str(tmp_path / "store"))["accounts"] == account["accounts"]
    assert counts(extract(extractors=entries[:1]), "descriptors")["pending"] == 0


def test_what_is_put_back_is_done_again(extract: Extract, tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    before = extract(extractors=entries[:1])
    assert [retry(str(tmp_path / "store"), reason)["segments"] for reason in ("empty", "truncated")] == [1, 1]
    assert counts(status(str(tmp_path / "store")), "descriptors")["pending"] == 2
    assert verify(str(tmp_path / "store"))["broken"] == []
    after = extract(extractors=entries[:1])
    assert after["accounts"] == before["accounts"]
    assert verify(str(tmp_path / "store"))["broken"] == []
    tried = pl.read_parquet(f"{tmp_path}/store/ledger/*.parquet").filter(pl.col("reason") == "empty")
    assert tried["attempt"].to_list() == [3]


def test_parts_of_a_medium_are_samples_of_their_own(ray_session: None, clips: Path, tmp_path: Path) -> None:
    uri = next(path for path in sorted(clips.rglob("*.mp4")) if path.parent.name != clips.name)
    (tmp_path / "list.csv").write_text(f"sample_id,uri,start_s,end_s\nwhole,{uri},,\nhead,{uri},0,1\ntail,{uri},1,\n")
    config = {"manifest": str(tmp_path / "list.csv"), "store": str(tmp_path / "store"), "resources": {"actors": 1}}
    mmray.extract(config | {"extractors": [{"name": "pixels", "fps": 10, "side_px": 8}]})
    frame = rows(config["store"], "pixels")
    parts = {name: own.sort("window") for (name,), own in frame.partition_by("sample_id", as_dict=True).items()}
    assert parts["head"].height == 10
    together = np.concatenate([np.stack(parts[name]["embedding"].to_list()) for name in ("head", "tail")])
    np.testing.assert_allclose(together, np.stack(parts["whole"]["embedding"].to_list()), atol=1e-6)


def test_verify_finds_what_is_broken_and_cleans_what_is_left_over(copy: Path) -> None:
    store = copy
    parts = sorted(store.glob("windows/extractor=descriptors-*/part-*.parquet"))
    orphan = parts[0].with_name("part-dead-00001.parquet")
    orphan.write_bytes(parts[0].read_bytes())
    (store / "windows" / ".tmp-abc").write_bytes(b"half")
    assert {one["promise"] for one in verify(str(store))["broken"]} == {"orphans"}
    cleaned = verify(str(store), clean=True)
    assert cleaned["ok"]
    assert len(cleaned["removed"]) == 2
    parts[0].unlink()
    broken = verify(str(store))["broken"]
    assert [one["promise"] for one in broken] == ["rows"]
    assert "part-" in broken[0]["path"]


def test_a_matrix_leaves_in_three_formats(whole: Whole, tmp_path: Path) -> None:
    store = str(whole.store)
    loaded = mmray.load(store, "yamnet", "max")
    for kind in ("npz", "csv", "parquet"):
        export(store, "yamnet", "max", str(tmp_path / f"out.{kind}"))
    archive = np.load(tmp_path / "out.npz", allow_pickle=False)
    np.testing.assert_array_equal(archive["matrix"], loaded.matrix)
    assert archive["ids"].tolist() == loaded.ids
    assert archive["labels"].tolist() == loaded.labels
    table = pl.read_csv(tmp_path / "out.csv")
    np.testing.assert_allclose(table.drop("sample_id", "label").to_numpy(), loaded.matrix, atol=1e-6)
    assert pl.read_parquet(tmp_path / "out.parquet")["sample_id"].to_list() == loaded.ids


def test_pooled_vectors_are_those_of_the_windows(whole: Whole) -> None:
    store = str(whole.store)
    loaded = {pooling: mmray.load(store, "yamnet", pooling) for pooling in POOLINGS["yamnet"]}
    frame = rows(store, "yamnet")
    for place, sample_id in enumerate(loaded["mean"].ids):
        windows = frame.filter(pl.col("sample_id") == sample_id).sort("window")
        own = np.stack(windows["embedding"].to_list())
        seconds = (windows["end_s"] - windows["start_s"]).to_numpy()
        np.testing.assert_allclose(loaded["mean"].matrix[place], np.average(own, 0, seconds), atol=1e-6)
        scores = np.stack(windows["scores"].to_list())
        np.testing.assert_allclose(loaded["scores_mean"].matrix[place], np.average(scores, 0, seconds), atol=1e-6)
        np.testing.assert_array_equal(loaded["scores_max"].matrix[place], scores.max(axis=0))
        np.testing.assert_array_equal(loaded["max"].matrix[place], own.max(axis=0))
        np.testing.assert_array_equal(loaded["first"].matrix[place], own[0])
    joined = np.concatenate([loaded["mean"].matrix, loaded["max"].matrix], axis=1)
    np.testing.assert_array_equal(loaded["mean+max"].matrix, joined)
    detections = rows(store, "yolo_onnx")
    best = mmray.load(store, "yolo_onnx", "max")
    count = mmray.load(store, "yolo_onnx", "count")
    assert count.matrix.sum() == detections.height
    if detections.height:
        assert best.matrix.max() == pytest.approx(detections["score"].max())


def test_pools_run_in_turn_and_give_the_same(
    whole: Whole, extract: Extract, light: list[dict[str, Any]], tmp_path: Path
) -> None:
    account = extract(extractors=[*light, PIXELS], pools=[["descriptors", "pixels"], ["yolo_onnx"]])
    ids = list(account["accounts"])
    assert account["accounts"] == {name: whole.account["accounts"][name] for name in ids}
    assert_frame_equal(ledger(tmp_path / "store"), ledger(whole.store).filter(pl.col("extractor").is_in(ids)))


def test_wrong_entries_are_told_before_any_work(extract: Extract, tmp_path: Path, tiny: Path) -> None:
    cases = {
        "did you mean 'fps'": {"name": "pixels", "fpss": 2},
        "did you mean 'yamnet'": {"name": "yamnt"},
        "manifest has no column 'txt'; did you mean 'text'": {
            "name": "sbert",
            "source": "txt",
            "model": str(tiny / "sbert"),
        },
        "just one of every, fps": {"name": "pixels", "fps": 2, "every": 3},
        "mmray models pull": {"name": "yamnet"},
        "no pooling 'summary'": {"name": "pixels", "pooling": "summary"},
        "box is": {"name": "pixels", "box": [0.5, 0, 0.2, 1]},
    }
    for words, entry in cases.items():
        with pytest.raises(mmray.errors.ConfigError, match=words) as caught:
            extract(extractors=[entry])
        assert "extractors[0]" in str(caught.value)
    assert not (tmp_path / "store" / "windows").exists()


def test_an_actor_that_cannot_fit_is_told_at_once(extract: Extract) -> None:
    with pytest.raises(mmray.errors.ConfigError, match="do not fit"):
        extract(extractors=[{"name": "pixels"}], resources={"cpus_per_actor": 64})
    with pytest.raises(mmray.errors.ConfigError, match="0 GPU"):
        extract(extractors=[{"name": "pixels"}], resources={"gpus_per_actor": 1})


def test_random_weights_are_said(whole: Whole) -> None:
    for name, kind in (("yamnet", "random:0"), ("descriptors", None)):
        assert (f"{name}: RANDOM WEIGHTS" in whole.said) == (kind is not None)
        frame = pl.read_parquet(f"{whole.store}/ledger/*.parquet").filter(pl.col("extractor").str.starts_with(name))
        assert frame["weights"].unique().to_list() == [kind]
        about = json.loads(next(whole.store.glob(f"provenance/{name}-*.json")).read_text())
        assert about["weights"] == kind


def test_help_imports_the_standard_library_alone() -> None:
    """The cheapest third-party import of mmray's, pyarrow, costs a tenth of a second; torch and ray seconds."""
    code = """
import sys
at_start = set(sys.modules)  # of the environment: setuptools puts a module there
from mmray.cli import main
try:
    main(["--help"])
finally:
    files = {name: getattr(sys.modules[name], "__file__", None) or "" for name in set(sys.modules) - at_start}
    print(sorted(name for name, file in files.items() if "site-packages" in file), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "extract" in done.stdout
    assert done.stderr.strip() == "[]"


def test_a_typo_ends_with_code_two_and_no_traceback(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("manifest: m.csv\nstroe: out\nextractors: [{name: pixels}]\n")
    command = [sys.executable, "-m", "mmray.cli", "extract", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2
    assert str(config) in done.stderr
    assert "did you mean 'store'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_relative_store_is_refused_where_there_are_several_nodes(tmp_path: Path) -> None:
    """What test_a_store_that_other_nodes_would_not_see_is_refused shows with two nodes, without them."""
    nodes = [{"NodeID": name, "Alive": name != "c", "Resources": {}} for name in "abc"]
    several, single = (SimpleNamespace(nodes=lambda alive=alive: alive) for alive in (nodes, nodes[1:]))
    with pytest.raises(mmray.errors.ConfigError, match=r"store: 'out' is relative, and each of the 2 nodes"):
        cluster.check_shared(several, "out", str(tmp_path))
    cluster.check_shared(several, "s3://bucket/out", "s3://bucket/out/x")
    cluster.check_shared(single, "out", str(tmp_path))


@pytest.mark.slow
def test_a_store_that_other_nodes_would_not_see_is_refused(tmp_path: Path) -> None:
    code = """
import os, sys
from ray.cluster_utils import Cluster
from mmray.cli import main
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
os.environ["RAY_ADDRESS"] = cluster.address
code = main(["extract", sys.argv[1]])
cluster.shutdown()
sys.exit(code)
"""
    (tmp_path / "m.csv").write_text("sample_id,uri\na,a.mp4\n")
    config = {"manifest": "m.csv", "store": "out", "extractors": [{"name": "pixels"}]}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-c", code, "run.yaml"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment, timeout=600
    )
    assert done.returncode == 2, done.stderr
    assert "'out' is relative" in done.stderr


def test_a_damaged_checkpoint_ends_the_run_and_says_which(extract: Extract, tmp_path: Path, tiny: Path) -> None:
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes((tiny / "yamnet" / "yamnet.h5").read_bytes()[:100_000])
    for _ in range(2):  # a wrong file is no crash: trying again says the same
        with pytest.raises(mmray.errors.MmrayError, match=r"damaged\.h5"):
            extract(extractors=[{"name": "yamnet", "weights": str(damaged)}])
    assert not list((tmp_path / "store" / "attempts").glob("*"))
    assert not (tmp_path / "store" / "lock.json").exists()
