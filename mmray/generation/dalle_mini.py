"""Pictures of 256 x 256 px from words: DALL·E mini and mega, token by token.

Source: Dayma et al. 2021, DALL·E Mini, through min-dalle (MIT), an extra. Weights: kuprel/min-dalle (Apache-2.0), in
the folder that min-dalle keeps: dalle_bart_mini/{vocab.json, merges.txt, encoder.pt, decoder.pt} and vqgan/detoker.pt.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from mmray.errors import ConfigError, MmrayError
from mmray.generation.base import GenerateFn, Generator, Progress, Request, RequestError, Result
from mmray.generation.batches import in_batches
from mmray.generation.prompts import Guidance

SIDE_PX, TOKENS = 256, 256


class DalleMiniRequest(Request):
    """A guidance that is None is as the generator says; the size is what it is, whether said or not."""

    prompt: str
    guidance: Guidance = None
    width_px: Literal[256] | None = None
    height_px: Literal[256] | None = None


class _Plan(NamedTuple):
    """What a picture is made with; ``work`` is its number of tokens."""

    guidance: float
    work: int = TOKENS


class DalleMini(Generator):
    """One seed gives one picture: they are made one by one, since min-dalle draws a whole batch from one source.

    On another device, with another precision or number of threads, numbers are rounded differently, and from the first
    token on that comes out otherwise the picture is another. ``guidance``: how far the words outweigh a picture of
    anything (min-dalle's supercondition factor). A prompt longer than 64 tokens, or with letters other than ASCII and
    emoji, which min-dalle would leave out, is refused. ``precision`` other than float32 needs a GPU.

    The networks live in a process of their own, which ends with the function that ``load`` returns. Where that process
    dies, the pictures under way are an MmrayError, and the next call starts another.
    """

    name: ClassVar[str] = "dalle_mini"
    request: ClassVar[type[Request]] = DalleMiniRequest
    extra: ClassVar[tuple[str, str] | None] = ("dalle-mini", "min_dalle")

    model: str = "dalle_mini"
    batch_size: int = Field(1, ge=1, le=1)
    guidance: float = Field(16, ge=0, le=100)

    def load(self, device: str, paths: Mapping[str, str]) -> GenerateFn:
        """Start the process and load a folder of min-dalle there, offline."""
        if importlib.util.find_spec("min_dalle") is None:
            raise ConfigError("dalle_mini needs the module min_dalle: pip install 'mmray[dalle-mini]'")
        if device == "cpu" and self.precision != "float32":
            raise ConfigError(f"precision: {self.precision} needs a GPU; on a CPU DALL·E mini takes float32")
        painter = _Painter(paths["model"], device, self.precision)

        def plan(request: DalleMiniRequest) -> _Plan:
            if problem := painter.problem(request.prompt):
                raise RequestError("prompt", problem)
            return _Plan(self.guidance if request.guidance is None else request.guidance)

        def generate(requests: Sequence[DalleMiniRequest], progress: Progress) -> list[Any]:
            painter.wake()
            return in_batches(requests, self.batch_size, plan, painter.make, progress)

        return generate


class _Painter:
    """The other end of ``dalle_child``: a process, and the line to it."""

    def __init__(self, path: str, device: str, precision: str) -> None:
        import torch

        self._path = path
        self._load = {"path": path, "device": device, "precision": precision, "threads": torch.get_num_threads()}
        self._start()

    def _start(self) -> None:
        self._line, there = Pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 — for as long as the process
        paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        command = [sys.executable, "-P", "-W", "ignore", "-m", "mmray.generation.dalle_child", str(there.fileno())]
        with there:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                env={**os.environ, "PYTHONPATH": paths},
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                process_group=0,  # Ctrl-C is for those who wait for the picture
            )
        self.end = weakref.finalize(self, _end, self._line, self._process, self._said)
        if refused := self._ask(do="load", **self._load)["refused"]:
            self.end()
            raise ConfigError(refused)

    def wake(self) -> None:
        """Start the process again where it has ended, or was left in the middle of a command."""
        if not self._idle or self._process.poll() is not None:
            self.end()
            self._start()

    def problem(self, prompt: str) -> str | None:
        """Say why a prompt cannot be read; None where it can."""
        found: str | None = self._ask(do="check", prompt=prompt)["refused"]
        return found

    def make(self, plan: _Plan, requests: list[DalleMiniRequest], progress: Callable[[int], None]) -> list[Result]:
        """Make one picture; what ``progress`` raises ends the work at that token."""
        (request,) = requests
        self._send(do="make", prompt=request.prompt, seed=request.seed, guidance=plan.guidance)
        for token in range(1, plan.work + 1):
            self._receive()
            go = False
            try:
                progress(token)
                go = True
            finally:
                self._send(go=go)
                self._idle = not go
        picture = np.frombuffer(self._receive(), np.uint8).reshape(SIDE_PX, SIDE_PX, 3).copy()
        self._idle = True
        return [Result(picture=picture)]

    def _ask(self, **words: Any) -> Any:
        self._send(**words)
        answer = json.loads(self._receive())
        self._idle = True
        return answer

    def _send(self, **words: Any) -> None:
        self._idle = False
        try:
            self._line.send_bytes(json.dumps(words).encode())
        except ConnectionError as error:
            raise self._died() from error

    def _receive(self) -> bytes:
        try:
            return self._line.recv_bytes()
        except (EOFError, ConnectionError) as error:
            raise self._died() from error

    def _died(self) -> MmrayError:
        """Return how the process ended, with its last words."""
        code = self._process.wait()
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        words = f": {lines[-1][:300]}" if lines else ""
        return MmrayError(f"{self._path}: the process of DALL·E mini ended ({how}){words}")


def _end(line: Connection, process: "subprocess.Popen[bytes]", said: IO[bytes]) -> None:
    """End a process and wait for it: no zombie stays, and no memory of a GPU."""
    line.close()
    process.kill()
    process.wait()
    said.close()
