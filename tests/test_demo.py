"""The demo corpus: it is what its table says, awkward where it promises to be, and the same for a seed."""

import csv
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from mmray import demo
from mmray.errors import ConfigError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return demo.make_corpus(tmp_path_factory.mktemp("demo") / "new" / "corpus", seed=3)


@pytest.fixture(scope="module")
def rows(corpus):
    with corpus.descriptions.open(encoding="utf-8", newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def streams(path):
    with av.open(path) as container:
        return Counter(stream.type for stream in container.streams)


def pictures(path):
    """Seconds and grey pictures of the first video stream."""
    with av.open(path) as container:
        frames = [(frame.time, frame.to_ndarray(format="gray")) for frame in container.decode(video=0)]
    return np.array([time for time, _ in frames]), np.stack([picture for _, picture in frames])


def sound(path, track=0):
    with av.open(path) as container:
        rate_hz = container.streams.audio[track].rate
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate_hz)
        frames = [out for frame in container.decode(audio=track) for out in resampler.resample(frame)]
    return rate_hz, np.concatenate([frame.to_ndarray()[0] for frame in frames])


def test_the_table_lists_every_clip_once(corpus, rows):
    media = {path.relative_to(corpus.folder).as_posix() for path in corpus.folder.glob("*/*")}
    assert media == set(rows) == {clip.file for clip in corpus.clips}
    assert 28 <= len(media) <= 34
    assert sum(path.stat().st_size for path in corpus.folder.rglob("*") if path.is_file()) < 25e6


def test_labels_are_the_folders_and_balanced_in_every_split(rows):
    assert all(row["label"] == Path(file).parent.name for file, row in rows.items())
    regular = [row for row in rows.values() if row["label"] != "awkward"]
    assert Counter(row["label"] for row in regular) == dict.fromkeys(demo.SHAPES, 6)
    for split in ("train", "val", "test"):
        assert len(set(Counter(row["label"] for row in regular if row["split"] == split).values())) == 1


def test_no_camera_is_in_two_splits(rows):
    splits = {}
    for row in rows.values():
        splits.setdefault(row["group"], set()).add(row["split"])
    assert len(splits) == len(demo.SPLITS) + 1
    assert all(len(found) == 1 for found in splits.values())


def test_matching_is_said_truly_and_both_kinds_occur(rows):
    regular = [row for row in rows.values() if row["label"] != "awkward"]
    assert all((row["matching"] == "true") == (demo.SOUNDS[row["shape"]] == row["sound"]) for row in regular)
    assert 0.2 < np.mean([row["matching"] == "false" for row in regular]) < 0.5


def test_texts_keep_their_scripts_and_vary(corpus, rows):
    texts = {file: row["text"] for file, row in rows.items()}
    assert texts == {clip.file: clip.text for clip in corpus.clips}
    assert len(set(texts.values())) > 25
    everything = "".join(texts.values())
    assert all(sign in everything for sign in ("ö", "的", "ع", "🎬"))
    assert [file for file, text in texts.items() if not text] == ["awkward/empty.mp4"]


def test_regular_clips_decode_and_have_the_tracks_they_promise(corpus):
    regular = [clip for clip in corpus.clips if clip.label != "awkward"]
    assert {Path(clip.file).suffix for clip in regular} == {".mp4", ".webm", ".mkv", ".avi", ".mpg"}
    assert sum(clip.second_track for clip in regular) >= 4
    for clip in regular:
        path = corpus.folder / clip.file
        assert streams(path) == {"video": 1, "audio": 1 + clip.second_track}, clip.file
        times_s, seen = pictures(path)
        rate_hz, heard = sound(path)
        assert 3.5 < times_s[-1] - times_s[0] < 6.1, clip.file
        assert abs(heard.size / rate_hz - (times_s[-1] - times_s[0])) < 0.3, clip.file
        assert np.abs(heard).max() > 0.1
        assert np.abs(np.diff(seen[:: len(seen) // 4].astype(int), axis=0)).mean() > 0.5, "nothing moves"


def test_the_second_track_is_another_sound(corpus):
    file = next(clip.file for clip in corpus.clips if clip.second_track)
    (_, first), (_, second) = (sound(corpus.folder / file, track) for track in (0, 1))
    size = min(first.size, second.size)
    assert abs(np.corrcoef(first[:size], second[:size])[0, 1]) < 0.5


def test_missing_streams_are_missing(corpus):
    assert streams(corpus.folder / "awkward/no_sound.mp4") == {"video": 1}
    assert streams(corpus.folder / "awkward/no_picture.mp4") == {"audio": 1}


def test_the_empty_file_is_empty(corpus):
    assert (corpus.folder / "awkward/empty.mp4").stat().st_size == 0


def test_the_truncated_clip_promises_more_than_it_holds(corpus):
    path = corpus.folder / "awkward/truncated.mp4"
    read = 0
    with av.open(path) as container:
        assert container.duration == pytest.approx(6e6, rel=0.05)
        try:
            for _ in container.decode(video=0):
                read += 1
        except av.error.InvalidDataError:
            pass
    assert 60 < read < 150


def test_the_black_clip_is_black_and_sounds(corpus):
    _, seen = pictures(corpus.folder / "awkward/black.mp4")
    assert seen.max() <= 16
    assert np.abs(sound(corpus.folder / "awkward/black.mp4")[1]).max() > 0.1


def test_the_variable_rate_clip_has_uneven_frames(corpus):
    times_s, _ = pictures(corpus.folder / "awkward/variable_rate.mp4")
    gaps_s = np.diff(times_s)
    assert gaps_s.max() > 3 * gaps_s.min() > 0


def test_the_long_clip_lasts_twelve_minutes_and_cuts_every_minute(corpus):
    path = corpus.folder / "awkward/twelve_minutes.mp4"
    with av.open(path) as container:
        assert container.duration / 1e6 == pytest.approx(720, abs=1)
        assert len(container.streams.audio) == 1
        video = container.streams.video[0]
        video.thread_type = "NONE"
        last, cuts_s = np.zeros(3), []
        for frame in container.decode(video):
            # The ground fills most of the picture and is another colour after each cut.
            ground = np.median(frame.to_ndarray(format="rgb24"), axis=(0, 1))
            if np.abs(ground - last).max() > 15:
                cuts_s.append(frame.time)
            last = ground
    assert cuts_s == [60 * minute for minute in range(12)]


def test_a_seed_gives_the_same_bytes_and_another_seed_others(corpus, tmp_path):
    again, other = demo.plan(3), demo.plan(4)
    assert [recording.clip for recording in again] == list(corpus.clips)
    one_of_each_form = {recording.form: number for number, recording in enumerate(again[:24])}
    assert len(one_of_each_form) == 6
    for number in one_of_each_form.values():
        file = again[number].clip.file
        for recording, folder in ((again[number], "again"), (other[number], "other")):
            demo.record(recording, tmp_path / folder / file)
        assert (tmp_path / "again" / file).read_bytes() == (corpus.folder / file).read_bytes()
        assert (tmp_path / "other" / file).read_bytes() != (corpus.folder / file).read_bytes()


def test_a_corpus_of_the_same_seed_is_left_alone(corpus):
    before = {path: path.stat().st_mtime_ns for path in corpus.folder.rglob("*")}
    again = demo.make_corpus(corpus.folder, seed=3)
    assert not again.made
    assert again.clips == corpus.clips
    assert before == {path: path.stat().st_mtime_ns for path in corpus.folder.rglob("*")}


def test_what_is_in_the_way_is_refused(corpus, tmp_path):
    with pytest.raises(ConfigError, match="another seed"):
        demo.make_corpus(corpus.folder, seed=4)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        demo.make_corpus(tmp_path, seed=3)
    with pytest.raises(ConfigError, match="is a file"):
        demo.make_corpus(tmp_path / "mine.txt", seed=3)
    with pytest.raises(ConfigError, match="0 or more"):
        demo.make_corpus(tmp_path / "new", seed=-1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_broken_off_making_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(recording, path):
        raise OSError("no space left on device")

    monkeypatch.setattr(demo, "record", full_disk)
    with pytest.raises(OSError, match="no space"):
        demo.make_corpus(tmp_path / "corpus")
    assert not list(tmp_path.iterdir())
