"""Long sound is entered in the middle: a run says where, and its rows are those of whole media."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mmray
from mmray.pipelines import plan
from mmray.tables.store import Store
from tests.media.making import make, tone
from tests.pipelines.conftest import rows


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A manifest of one long MP3 as a whole, a part of it, and one short file."""
    long = make(tmp_path / "long.mp3", sound=tone(30, 16_000), sound_codec="libmp3lame")
    short = make(tmp_path / "short.mp3", sound=tone(3, 16_000), sound_codec="libmp3lame")
    samples = {"uri": [long, long, short], "start_s": [0.0, 12.5, 0.0], "end_s": [None, 16.0, None]}
    path = tmp_path / "manifest.parquet"
    pl.DataFrame({"sample_id": ["whole", "part", "short"]} | samples).write_parquet(path)
    return path


def test_segments_of_long_sound_have_an_entry_and_the_rows_of_whole_media(
    ray_session: None, media: Path, tmp_path: Path
) -> None:
    config = {"manifest": str(media), "extractors": [{"name": "logmel"}], "resources": {"actors": 1}}
    stores = {segment_s: tmp_path / f"{segment_s}" for segment_s in (4.8, 288.0)}
    for segment_s, store in stores.items():
        mmray.extract(config | {"store": str(store), "segment_s": segment_s})
    one, other = (rows(store, "logmel").drop("segment") for store in stores.values())
    assert one.height > 30
    assert_frame_equal(one, other, abs_tol=1e-4, rel_tol=1e-4)
    found = [pl.read_parquet(store / "segments.parquet") for store in stores.values()]
    counts = [dict(frame.group_by("sample_id").agg(pl.col("audio_entry").count()).iter_rows()) for frame in found]
    assert counts == [{"whole": 5, "part": 1, "short": 0}, {"whole": 0, "part": 0, "short": 0}]


def test_the_segments_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    row = {"sample_id": "a", "segment": 0, "start_s": 0.0, "scope": "segment", "source": "uri", "input": "0"}
    earlier = pl.DataFrame([row], schema={name: kind for name, kind in plan.SEGMENTS.items() if name != "audio_entry"})
    store.write(earlier.to_arrow(), "segments.parquet")
    read = plan.read_segments(store)
    assert read.schema == plan.SEGMENTS and read["audio_entry"].to_list() == [None]
