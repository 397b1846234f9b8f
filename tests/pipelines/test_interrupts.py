"""Ctrl-C, SIGTERM, a lost head and a Ray that does not start: one sentence, the right exit code, and soon."""

import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from mmray.errors import ConfigError, MmrayError, in_words
from mmray.pipelines import cluster
from tests.pipelines.conftest import wait_for

LIMIT_S = 10  # from the signal to the exit: the promise of the issue, not a measurement


def started(program: str) -> subprocess.Popen[str]:
    """Start a Python program; it says "ready" on stdout where the test may go on."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "RAY_ADDRESS": ""},
    )  # fmt: skip


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 240)[0], "it says nothing"
    assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()


def ended(process: subprocess.Popen[str], seconds: float = LIMIT_S) -> tuple[int, str]:
    """Return the exit code and what stands on stderr."""
    try:
        _, stderr = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, stderr


# While Ray is connected sys.stdout is stderr: programs say "ready" on sys.__stdout__.
VERB = """
    import argparse, time
    from mmray import cli
    def verb(arguments):
        {work}
    parser = argparse.ArgumentParser()
    parser.set_defaults(function=verb, verbose=False, json=False)
    cli.parser = lambda: parser
    import sys
    sys.argv = ["mmray"]
    cli.run()
"""


def verb(work: str) -> str:
    return textwrap.dedent(VERB).replace("{work}", textwrap.indent(textwrap.dedent(work), " " * 4).strip())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_clean_up_and_end_with_130(number: signal.Signals) -> None:
    process = started(verb("""
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            sys.stderr.write("cleaned up\\n")
    """))  # fmt: skip
    ready(process)
    process.send_signal(number)
    code, stderr = ended(process)
    assert code == 130
    assert "cleaned up" in stderr
    assert stderr.count("interrupted; what is committed is kept") == 1
    assert "Traceback" not in stderr


def test_ctrl_c_ends_a_main_thread_that_is_stuck_in_native_code() -> None:
    process = started(verb("""
        import ctypes
        from mmray.pipelines import interrupts
        mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
        with interrupts.last_resort(lambda: sys.stderr.write("lease released\\n")):
            print("ready", flush=True)
            lock(mutex), lock(mutex)
    """))  # fmt: skip
    ready(process)
    wait_for(lambda: "futex" in Path(f"/proc/{process.pid}/wchan").read_text())
    process.send_signal(signal.SIGINT)
    code, stderr = ended(process)
    assert code == 130
    assert "interrupted; what is committed is kept" in stderr
    assert "lease released" in stderr


def test_more_ctrl_c_does_not_break_the_clean_up() -> None:
    process = started(verb("""
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("ready", flush=True)
            time.sleep(1)
            sys.stderr.write("cleaned up\\n")
    """))  # fmt: skip
    ready(process)
    process.send_signal(signal.SIGINT)
    ready(process)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    code, stderr = ended(process)
    assert code == 130
    assert "cleaned up" in stderr
    assert "Traceback" not in stderr


def test_an_expected_interruption_is_not_followed_by_the_end() -> None:
    process = started(verb("""
        from mmray.pipelines import interrupts
        interrupts.LIMIT_S = 0.3
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            interrupts.handled()
            time.sleep(1)
            print("ready", flush=True)
            time.sleep(60)
    """))  # fmt: skip
    ready(process)
    process.send_signal(signal.SIGINT)
    ready(process)
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 130


def test_ctrl_c_while_ray_starts_leaves_no_process_behind() -> None:
    process = started(verb("""
        import threading
        from mmray.pipelines import cluster
        def watch():
            while not cluster._children():
                time.sleep(0.05)
            print("ready", file=sys.__stdout__, flush=True)
        threading.Thread(target=watch, daemon=True).start()
        with cluster.connected():
            time.sleep(60)
    """))  # fmt: skip
    ready(process)
    process.send_signal(signal.SIGINT)
    code, stderr = ended(process, 2 * LIMIT_S)
    assert code == 130
    assert "Traceback" not in stderr
    wait_for(lambda: not of_ray(process.pid))


CONNECTED = """
    import os
    from mmray.pipelines import cluster, interrupts
    with interrupts.last_resort(lambda: sys.stderr.write("lease released\\n")), cluster.connected() as ray:
        work = ray.remote(lambda: time.sleep(600)).remote()
        for pid in cluster._children():
            if "gcs_server" in open(f"/proc/{pid}/cmdline").read():
                print("ready", file=sys.__stdout__, flush=True)
                print(pid, file=sys.__stdout__, flush=True)
        ray.get(work)
"""


def test_a_lost_head_ends_the_run_with_one_sentence_and_exit_code_3() -> None:
    process = started(verb(CONNECTED))
    ready(process)
    assert process.stdout is not None
    os.kill(int(process.stdout.readline()), signal.SIGKILL)
    code, stderr = ended(process, 60)
    assert code == 3
    lines = [line for line in stderr.splitlines() if "starting Ray" not in line]
    assert len(lines) == 2, stderr
    assert "the connection to Ray's head" in lines[0]
    assert lines[0].endswith("run the same command again")
    assert lines[1] == "lease released"
    wait_for(lambda: not of_ray(process.pid))


def of_ray(driver: int) -> list[str]:
    """Return the command lines of Ray processes whose session belongs to a driver."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text().replace("\0", " ")
        except OSError:
            continue
        if re.search(rf"session_[0-9_-]+_{driver}\b", line):
            found.append(line)
    return found


def test_a_ray_that_does_not_start_is_one_sentence_and_exit_code_3() -> None:
    process = started(verb("""
        import ray
        from mmray.pipelines import cluster
        def init(**options):
            raise Exception("The current node timed out during startup. This could happen")
        ray.init = init
        with cluster.connected():
            pass
    """))  # fmt: skip
    code, stderr = ended(process, 60)
    assert code == 3
    assert stderr.count("trying once more") == 1
    assert "Ray does not start on this machine: The current node timed out during startup" in stderr
    assert "Traceback" not in stderr


def test_a_cluster_that_does_not_answer_is_one_sentence_and_exit_code_3() -> None:
    process = started(verb("""
        import os
        os.environ["RAY_ADDRESS"] = "127.0.0.1:1"
        from mmray.pipelines import cluster
        with cluster.connected():
            pass
    """))  # fmt: skip
    code, stderr = ended(process, 60)
    assert code == 3
    assert "the Ray cluster at 127.0.0.1:1 (RAY_ADDRESS) cannot be used: nothing answers there" in stderr
    assert "Traceback" not in stderr


def test_ray_starts_while_its_agents_take_longer_than_it_would_wait_for_them(tmp_path: Path) -> None:
    slow = "import sys, time\nif any(word.endswith(('agent.py', 'agent/main.py')) for word in sys.orig_argv):\n    "
    (tmp_path / "sitecustomize.py").write_text(slow + "time.sleep(60)\n")
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent("""
            from mmray.pipelines import cluster
            with cluster.connected() as ray:
                print(ray.get(ray.remote(lambda: 1).remote()))
        """)],
        env={**os.environ, "RAY_ADDRESS": "", "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout == ""  # what is printed while Ray runs goes to stderr
    assert process.stderr == "1\n"


def test_a_worker_that_is_killed_leaves_no_dump_on_stderr() -> None:
    process = started(verb("""
        import os
        from mmray.pipelines import cluster
        with cluster.connected() as ray:
            killed = ray.remote(max_retries=0)(lambda: os.kill(os.getpid(), 9)).remote()
            try:
                ray.get(killed)
            except ray.exceptions.WorkerCrashedError:
                time.sleep(2)  # Ray prints it a moment later
            raise OSError(28, "No space left on device", "/data/out")
    """))  # fmt: skip
    code, stderr = ended(process, 120)
    assert code == 3
    assert [line[9:] for line in stderr.splitlines()] == ["starting Ray", "no space left on device: /data/out"]


def test_a_bug_is_one_line_with_the_file_of_its_traceback() -> None:
    process = started(verb("return {}['key']"))
    code, stderr = ended(process)
    assert code == 3
    (line,) = stderr.splitlines()
    assert "this is a bug in mmray, please report it: KeyError: 'key'; the traceback is in " in line
    file = Path(line.rpartition(" ")[2])
    assert "Traceback" in file.read_text()
    file.unlink()


def test_python_m_mmray_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "mmray", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("mmray ")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "/a"), "no space left on device: /a"),
        (PermissionError(13, "Permission denied", "/a b"), "permission denied: /a b"),
        (
            OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device"),
            "no space left on device (error writing bytes to file)",
        ),
        (
            FileNotFoundError("The specified bucket does not exist"),
            "no such bucket (The specified bucket does not exist)",
        ),
        (ConnectionError("https://a.b: refused"), "https://a.b: refused"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_an_error_is_told_in_words(error: Exception, words: str) -> None:
    assert in_words(error) == words


class Broken:
    """Fails as a worker may, in its call or already when it is made."""

    def __init__(self, error: Exception, at_once: bool) -> None:
        self._error = error
        if at_once:
            raise error

    def __call__(self, batch: Any) -> Any:
        raise self._error


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(28, "No space left on device", "/a"), MmrayError, "the run broke off: no space left on device: /a"),
        (MmrayError("loading the models failed"), MmrayError, "loading the models failed"),
        (ConfigError("sbert: it cannot be loaded"), ConfigError, "sbert: it cannot be loaded"),
        (ValueError("too wide"), MmrayError, "the run broke off: ValueError: too wide"),
    ],
)
def test_the_root_cause_of_an_error_in_a_pool_is_found(
    ray_session: None, error: Exception, kind: type, words: str, at_once: bool
) -> None:
    import pyarrow as pa
    import ray.data

    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=1)
    dataset = ray.data.from_arrow([pa.table({"a": [1]})]).map_batches(
        Broken, batch_size=1, batch_format="pyarrow", compute=pool, num_cpus=1, fn_constructor_args=(error, at_once)
    )
    with pytest.raises(ray.exceptions.RayError) as raised:
        list(dataset.iter_batches(batch_size=None))
    cause = cluster.root_cause(raised.value)
    assert (type(cause), str(cause)) == (kind, words)
