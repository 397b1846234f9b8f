"""Manifest, media and store on S3 give the tables that local disk gives, with few requests."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from polars.testing import assert_frame_equal

import mmray
from mmray import cli, retries, storage
from tests.pipelines.conftest import rows

Requests = list[tuple[str, str]]


def requests(log: Path, since: int) -> Requests:
    """Return the method and path of the requests the server logged."""
    lines = log.read_text(errors="replace")[since:].splitlines()
    found = (re.search(r'"(GET|PUT|HEAD|POST|DELETE) (\S+)', line) for line in lines)
    return [(match[1], match[2]) for match in found if match]


def run(config: dict[str, Any], folder: Path, name: str, capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    capfd.readouterr()
    code = cli.main(["extract", str(path), "--json"])
    said = capfd.readouterr()
    assert code == 0, said.err
    assert "mmraytestsecret" not in said.err + said.out
    account: dict[str, Any] = json.loads(said.out)
    return account


def copied(store: str, folder: Path) -> Path:
    """Copy a remote store's tables to disk, so that plain globs read both."""
    for entry in storage.files(store):
        target = folder / entry.uri.removeprefix(store).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(storage.read_bytes(entry.uri))
    return folder


def test_a_bucket_gives_what_a_folder_gives_with_few_requests(
    ray_session: None, clips: Path, s3_bucket: str, s3_log: Path, light: list[dict[str, Any]], tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from mmray.tables import manifest
    from mmray.tables.store import write_parquet

    media = [path for path in sorted(clips.rglob("*.*")) if path.is_file()]
    for path in media:
        storage.put(f"{s3_bucket}/media/{path.relative_to(clips)}", path.read_bytes())
    local, remote = str(tmp_path / "m.parquet"), f"{s3_bucket}/manifests/m.parquet"
    write_parquet(manifest.gather([str(clips)])[0], local)
    write_parquet(manifest.gather([f"{s3_bucket}/media"])[0], remote)
    entries = [*light, {"name": "pixels", "fps": 5, "side_px": 12}]
    common = {"extractors": entries, "max_error_rate": 1, "segment_s": 1.92, "resources": {"actors": 1}}
    on_disk = mmray.extract({"manifest": local, "store": str(tmp_path / "store")} | common)

    start = len(s3_log.read_text(errors="replace"))
    store = f"{s3_bucket}/store"
    on_s3 = run({"manifest": remote, "store": store} | common, tmp_path, "s3", capfd)
    assert on_s3["accounts"] == on_disk["accounts"]
    copy = copied(store, tmp_path / "copy")
    for name in ("descriptors", "yolo_onnx", "pixels"):
        assert_frame_equal(rows(copy, name), rows(tmp_path / "store", name), abs_tol=1e-4)
    seen = requests(s3_log, start)
    parts = [path for method, path in seen if method == "PUT" and "/windows/" in path]
    kept = list((copy / "windows").rglob("*.parquet"))
    assert len(parts) == len(set(parts)) == len(kept)
    assert not [path for method, path in seen if method == "POST" and "uploads" in path]

    start = len(s3_log.read_text(errors="replace"))
    again = run({"manifest": remote, "store": store} | common, tmp_path, "s3", capfd)
    assert again["nothing_to_do"]
    touched = [path for _, path in requests(s3_log, start) if "/media/" in path and not path.endswith("/")]
    assert [path for path in touched if "list-type" not in path] == []


def test_an_endpoint_out_of_reach_is_told(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmray.errors import ConfigError
    from mmray.tables import manifest

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    before_s = retries.retry_limit_s()
    storage.set_retry_limit_s(0.2)
    try:
        with pytest.raises(ConfigError, match="cannot be read"):
            manifest.read("s3://mmray-none/m.parquet")
    finally:
        storage.set_retry_limit_s(before_s)
