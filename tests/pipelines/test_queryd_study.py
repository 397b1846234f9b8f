"""The study of the document's tables runs whole, on a small synthetic corpus of the same shape."""

from pathlib import Path

import numpy as np
import yaml

from mmray.fusion.config import load_study
from mmray.pipelines import study
from tests.conftest import ROOT
from tests.fusion import making

# Table -> accuracies, as the document prints them.
PUBLISHED = {
    "3.1": [0.54, 0.60, 0.48],
    "3.2": [0.35, 0.38, 0.32, 0.34, 0.28, 0.27, 0.28, 0.29, 0.30, 0.41],
    "3.3": [0.524, 0.491],
    "3.4": [0.539, 0.526],
    "3.5": [0.548, 0.530],
}


def test_every_row_of_the_tables_runs_and_stands_beside_the_documents_figure(ray_session: None, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = ["education", "music", "sports", "gaming"]
    classes = random.choice(4, 120, p=[0.4, 0.3, 0.2, 0.1])
    config = load_study(str(ROOT / "configs" / "queryd-study.yaml"))
    scores = np.eye(4, dtype=np.float32)[classes] * 0.6 + 0.1
    store = str(tmp_path / "store")
    columns = {
        "label": [names[one] for one in classes],
        "text": [f"a video of {names[one]} {place}" for place, one in enumerate(classes)],
        "group": [f"channel {place % 40}" for place in range(120)],
    }
    for place, pooling in enumerate(sorted({one.pooling for one in config.embeddings})):
        wanted = [one.extractor for one in config.embeddings if not one.vectoriser and one.pooling == pooling]
        matrices = {name: making.clusters(classes, 8 + place, 2.0, seed=len(name) + place) for name in wanted}
        about = {"zero_shot": scores} if pooling == "mean" else {}
        making.store(Path(store), columns, matrices | about, scores={"zero_shot": names}, pooling=pooling)
    data = yaml.safe_load((ROOT / "configs" / "queryd-study.yaml").read_text())
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(data | {"store": store, "out": str(tmp_path / "out"), "seeds": [0]}))
    result = study.run(load_study(str(path)), str(path))
    assert (result["failed"], result["timed_out"]) == (0, 0)
    found: dict[str, list[float]] = {}
    for row in result["leaderboard"]:
        found.setdefault(row["table"], []).append(row["published"])
        assert row["accuracy"] is not None
    assert {table: sorted(found[table]) for table in PUBLISHED} == {t: sorted(v) for t, v in PUBLISHED.items()}
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("(table 3.2)") == 10
