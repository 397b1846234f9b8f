"""``mmray VERB``: parse, call one run, print what came of it.

Exit codes: 0 done; 1 finished, but too many failures or a broken promise; 2 usage or configuration; 3 the run as a
whole failed; 130 interrupted.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmray
from mmray import printing
from mmray.errors import ConfigError, MmrayError, in_words
from mmray.pipelines import interrupts

log = logging.getLogger("mmray")

DONE, FAILURES, USAGE, BROKEN, INTERRUPTED = 0, 1, 2, 3, 130


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(prog="mmray", description=mmray.__doc__)
    top.add_argument("--version", action="version", version=f"mmray {mmray.__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    common.add_argument("--verbose", action="store_true", help="log more, on stderr")

    def verb(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=text, description=text, parents=[common])
        one.set_defaults(function=function)
        return one

    one = verb("demo-corpus", _demo_corpus, "make a small synthetic labelled corpus")
    one.add_argument("folder", metavar="DIR")
    one.add_argument("--seed", type=int, default=0)

    one = verb("init", _init, "a first configuration, with comments, for what is in a folder")
    one.add_argument("folder", metavar="DIR", nargs="?", default=".", help="where mmray.yaml is written (here)")

    one = verb("manifest", _manifest, "scan folders, globs, URLs, CSV, JSONL and Parquet lists into a manifest")
    one.add_argument("sources", metavar="SOURCE", nargs="+")
    one.add_argument("-o", "--output", required=True, metavar="FILE", help="manifest.parquet to write")
    one.add_argument("--label-from", metavar="parent|COLUMN", help="the folder a file stands in, or a column")
    one.add_argument("--join", metavar="FILE", help="a list whose columns are added")
    one.add_argument("--on", metavar="COLUMN", default="sample_id", help="the list's column that names the sample")
    one.add_argument("--pattern", metavar="P", help="columns from file names: '{label}_{group}_*.wav'")
    one.add_argument("--words", metavar="COLUMN|DIR", help="a sample for each word: word:start-end;... or .align files")
    one.add_argument("--slots", metavar="NAMES", help="name the words of a clip by place: _,colour,_,_,digit,_")

    one = verb("plan", _plan, "probe all media, predict hours, bytes and failures; write the segment table")
    _config_arguments(one)

    one = verb("extract", _extract, "extract features; what is done is not done again")
    _config_arguments(one)
    one.add_argument("--limit", type=_positive, metavar="N", help="only the first N samples of the manifest")

    one = verb("status", _status, "the account of a store")
    one.add_argument("store", metavar="STORE")

    one = verb("retry", _retry, "put quarantined segments back in the queue")
    one.add_argument("store", metavar="STORE")
    one.add_argument("--reason", required=True, metavar="CODE")

    one = verb("verify", _verify, "check the promises of a store")
    one.add_argument("store", metavar="STORE")
    one.add_argument("--clean", action="store_true", help="remove what dead runs left")

    one = verb("import", _import, "adopt vectors that another tool made: npz, CSV, Parquet, IDX")
    one.add_argument("files", metavar="FILE", nargs="+", help="an IDX file of labels goes behind that of its pictures")
    one.add_argument("--store", required=True, metavar="S", help="it is made where there is none")
    one.add_argument("--as", dest="name", required=True, metavar="NAME", help="what the vectors are called there")
    one.add_argument(
        "--column", action="append", default=[], metavar="NAME=VALUE", dest="columns", help="of all samples: split=test"
    )

    one = verb("export", _export, "write one matrix with ids and labels: npz, CSV or Parquet")
    one.add_argument("store", metavar="STORE")
    one.add_argument("--extractor", required=True, metavar="ID")
    one.add_argument("--pooling", default="mean", metavar="P")
    one.add_argument("-o", "--output", required=True, metavar="FILE")

    one = verb("study", _study, "every combination of embeddings, fusion, classifier and labels; a leaderboard")
    _run_arguments(one)

    one = verb("train", _train, "train fusion networks, or tune text classifiers, on Ray Train")
    _run_arguments(one)

    one = verb("evaluate", _evaluate, "accuracy of what was trained: without an input, under noise, calibrated")
    _run_arguments(one)

    one = verb("search", _search, "the samples nearest to a text, a picture, a sound or another sample")
    one.add_argument("store", metavar="STORE")
    asked = one.add_mutually_exclusive_group(required=True)
    asked.add_argument("--text", metavar="T")
    asked.add_argument("--image", metavar="F", help="a picture, or a video")
    asked.add_argument("--audio", metavar="F", help="anything with sound")
    asked.add_argument("--sample", metavar="ID", help="a sample of the store; it is left out of the results")
    one.add_argument("-k", type=_positive, default=10, metavar="K", help="how many samples (10)")
    one.add_argument("--in", dest="partition", metavar="NAME|ID", help="an extractor; default: the only one in reach")
    one.add_argument("--pooling", metavar="P", help="of the vectors to compare with (mean)")
    one.add_argument("--windows", action="store_true", help="compare with single windows; say which was best")
    one.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="only such samples")
    one.add_argument("--map", metavar="DIR", help="search through a trained map: OUT/maps/NAME of a cross-modal study")
    one.add_argument("--html", metavar="FILE", help="also write a page with thumbnails and players")

    one = verb("generate", _generate, "pictures, sounds, pictures that sound, for a list of prompts; resumes")
    _config_arguments(one)
    one.add_argument("--limit", type=_positive, metavar="N", help="only the first N results")
    one.add_argument("--files", metavar="DIR", help="also write DIR/SAMPLE.png and .wav")

    one = verb("serve", _serve, "the endpoint: generation, embeddings, search and more over HTTP, and its page")
    one.add_argument("config", metavar="CONFIG")
    one.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="any key: a.b=VALUE"
    )

    one = verb("report", _report, "one HTML file of a store, a study or a training; it asks no network")
    one.add_argument("folder", metavar="STORE|STUDY|TRAINING")
    one.add_argument("-o", "--output", required=True, metavar="FILE", help="report.html to write")
    one.add_argument("--map", choices=["pca", "umap"], default="pca", help="how embeddings are drawn (pca)")

    one = verb("doctor", _doctor, "what this machine has and lacks, and which extractors can run on it")
    one.add_argument("config", metavar="CONFIG", nargs="?", help="look at the extractors of a run instead of all")

    one = verb("models", _models, "list, pull and verify weights; make tiny random ones")
    one.add_argument("action", choices=["list", "pull", "verify", "make-tiny"])
    one.add_argument("names", metavar="NAME|DIR", nargs="*", help="pull: names or hub ids; make-tiny: the folder")
    one.add_argument("--into", metavar="URL", help="pull: a folder or URL to put them, instead of MMRAY_HOME")
    one.add_argument("--seed", type=int, default=0, help="make-tiny: the seed")
    return top


def _run_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("config", metavar="CONFIG")
    one.add_argument("--store", metavar="S", help="instead of the configuration's")
    one.add_argument("--out", metavar="DIR", help="instead of the configuration's")
    one.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="any key: a.b=VALUE"
    )


def _config_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("config", metavar="CONFIG")
    one.add_argument("--manifest", metavar="M", help="instead of the configuration's")
    one.add_argument("--store", metavar="S", help="instead of the configuration's")
    one.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="any key: a.b=VALUE"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _config(arguments: argparse.Namespace) -> Any:
    from mmray.config import load_extract

    return load_extract(arguments.config, arguments.settings, manifest=arguments.manifest, store=arguments.store)


def _demo_corpus(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray import demo

    corpus = demo.make_corpus(Path(arguments.folder), arguments.seed)
    about = {"folder": str(corpus.folder), "clips": len(corpus.clips), "descriptions": str(corpus.descriptions)}
    return DONE, about | {"seed": arguments.seed, "made": corpus.made}


def _init(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.pipelines import first

    return DONE, first.run(arguments.folder)


def _manifest(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.tables import manifest, patterns, store, words

    parent = arguments.label_from == "parent"
    if arguments.slots and not arguments.words:
        raise ConfigError("--slots: names the words that --words finds; give both")
    table, passed_over = manifest.gather(arguments.sources, parent)
    bare = 0
    unspoken: dict[str, int] = {}
    if arguments.pattern is not None:
        table = patterns.named(table, arguments.pattern)
    if arguments.join:
        table, bare = manifest.joined(table, arguments.join, arguments.on)
    if arguments.words:
        slots = [name.strip() for name in arguments.slots.split(",")] if arguments.slots else []
        if not all(slots):
            raise ConfigError(f"--slots {arguments.slots}: a name is empty; `_` leaves a word out")
        table, unspoken = words.spoken(table, arguments.words, slots)
    if arguments.label_from and not parent:
        table = manifest.labelled(table, arguments.label_from)
    table = manifest.checked(table, arguments.output)
    store.write_parquet(table, arguments.output)
    about = {"output": arguments.output, "samples": table.num_rows, "columns": table.column_names}
    return DONE, about | {"not_media": passed_over, "not_joined": bare, "left_out": unspoken}


def _plan(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.pipelines import forecast

    return DONE, forecast.run(_config(arguments), arguments.config)


def _extract(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    config = _config(arguments)
    from mmray.pipelines import extract

    return _judged(extract.run(config, arguments.config, arguments.limit), config)


def _judged(account: dict[str, Any], config: Any) -> tuple[int, dict[str, Any]]:
    """Return the exit code of an account, with it."""
    from mmray.tables.ledger import error_rate

    if not account["adds_up"]:
        log.error("the account does not add up: this is a bug; `mmray verify %s` says more", config.store)
        return BROKEN, account
    rates = {extractor: error_rate(counts) for extractor, counts in account["accounts"].items()}
    worst = max(rates, key=lambda extractor: rates[extractor])
    if rates[worst] > config.max_error_rate:
        allowed = 100 * config.max_error_rate
        log.error("%s: %.1f %% failed, more than max_error_rate %.1f %%", worst, 100 * rates[worst], allowed)
        return FAILURES, account
    return DONE, account


def _status(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.pipelines import status

    return DONE, status.status(arguments.store)


def _retry(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.pipelines import status

    return DONE, status.retry(arguments.store, arguments.reason)


def _verify(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.pipelines import verify

    result = verify.verify(arguments.store, arguments.clean)
    return (DONE if result["ok"] else FAILURES), result


def _import(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.config import assigned
    from mmray.pipelines import adopt

    columns = dict(assigned(one, "--column") for one in arguments.columns)
    return DONE, adopt.run(arguments.files, arguments.store, arguments.name, columns)


def _export(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.pipelines import export

    return DONE, export.export(arguments.store, arguments.extractor, arguments.pooling, arguments.output)


def _study(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    if _kind(arguments, "study", ("crossmodal",)) == "crossmodal":
        from mmray.fusion import crossmodal
        from mmray.pipelines import study_crossmodal

        maps = crossmodal.load_crossmodal(
            arguments.config, arguments.settings, store=arguments.store, out=arguments.out
        )
        return DONE, study_crossmodal.run(maps, arguments.config)
    from mmray.fusion.config import load_study
    from mmray.pipelines import study

    config = load_study(arguments.config, arguments.settings, store=arguments.store, out=arguments.out)
    result = study.run(config, arguments.config)
    if missing := result["cells"] - result["done"]:
        log.error("%d of %d cells have no figures: see the leaderboard's last rows", missing, result["cells"])
    return (FAILURES if missing else DONE), result


def _train(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.pipelines import train

    return DONE, train.run(_training(arguments), arguments.config)


def _evaluate(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.pipelines import evaluate

    return DONE, evaluate.run(_training(arguments), arguments.config)


def _training(arguments: argparse.Namespace) -> Any:
    kind = _kind(arguments, "train", ("fusion", "text"))
    from mmray.fusion.text_training import load_text
    from mmray.fusion.training import load_train

    load = load_text if kind == "text" else load_train
    return load(arguments.config, arguments.settings, store=arguments.store, out=arguments.out)


def _kind(arguments: argparse.Namespace, verb: str, kinds: tuple[str, ...]) -> str | None:
    """Return what a configuration says it is; ConfigError where it is of another verb."""
    from mmray.config import nearest, read_yaml, with_settings

    kind = with_settings(read_yaml(arguments.config), arguments.settings).get("kind")
    if kind is not None and kind not in kinds:
        raise ConfigError(f"{arguments.config}: kind: {kind!r} is not for `mmray {verb}`{nearest(str(kind), kinds)}")
    return kind


def _search(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.pipelines import search

    means = next(name for name in search.MEANS if getattr(arguments, name) is not None)
    question = search.Question(
        means=means,
        value=getattr(arguments, means),
        k=arguments.k,
        partition=arguments.partition,
        pooling=arguments.pooling,
        by_window=arguments.windows,
        where=arguments.where,
        through=arguments.map,
    )
    return DONE, search.run(arguments.store, question, arguments.html)


def _generate(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.pipelines.prompts import load_generate

    config = load_generate(arguments.config, arguments.settings, arguments.store, arguments.manifest)
    from mmray.pipelines import generate

    return _judged(generate.run(config, arguments.config, arguments.limit, arguments.files), config)


def _serve(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.pipelines.serving.settings import load_serve

    config = load_serve(arguments.config, arguments.settings)
    from mmray.pipelines import serve

    return DONE, serve.run(config, arguments.config)


def _report(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.pipelines import report

    return DONE, report.run(arguments.folder, arguments.output, arguments.map)


def _doctor(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.pipelines import doctor

    log.info("looking at this machine; this takes some seconds")
    result = doctor.run(arguments.config)
    return (DONE if result["ok"] else FAILURES), result


def _models(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from mmray.pipelines import checkpoints

    return checkpoints.run(arguments.action, arguments.names, arguments.into, arguments.seed)


def _log_to_stderr(verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.INFO)


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    arguments = parser().parse_args(words)
    _log_to_stderr(arguments.verbose)
    with interrupts.watched():
        try:
            code, result = arguments.function(arguments)
            _print(arguments, result)
        except ConfigError as error:
            log.error("%s", error)
            return USAGE
        except KeyboardInterrupt:
            log.error("%s", interrupts.MESSAGE)
            return INTERRUPTED
        except Exception as error:
            log.error("%s", _sentence(error, arguments.verbose), exc_info=arguments.verbose)
            return BROKEN
    return int(code)


def _print(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    verb = arguments.function.__name__[1:]
    try:
        print(json.dumps(result, ensure_ascii=False) if arguments.json else printing.text(verb, result), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence(error: Exception, verbose: bool) -> str:
    """Return what to tell of an error that ended a run; where it is a bug, its traceback goes to a file."""
    if isinstance(error, MmrayError):
        return str(error)
    if "ray" in sys.modules and isinstance(error, sys.modules["ray"].exceptions.RayError):
        from mmray.pipelines import cluster

        return str(cluster.root_cause(error))
    if isinstance(error, OSError):
        return in_words(error)
    sentence = f"this is a bug in mmray, please report it: {in_words(error)}"
    return sentence if verbose else f"{sentence}; {_kept_traceback()}"


def _kept_traceback() -> str:
    """Write the traceback of the exception at hand to a file; returns where it is."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="mmray-error-", suffix=".txt", delete=False) as file:
            file.write(traceback.format_exc())
    except OSError:  # the disk that is full may be this one
        return "--verbose shows the traceback"
    return f"the traceback is in {file.name}"


def run() -> None:
    """Be the ``mmray`` command."""
    code = main()
    if code == INTERRUPTED:
        # All is cleaned up; what Python does at its exit could wait for threads that nobody interrupted.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
