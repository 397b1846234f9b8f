"""DALL·E mini in its own process: min-dalle's own pictures, and nothing of it in this process."""

import gc
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from pydantic import ValidationError

from mmray.errors import ConfigError, MmrayError
from mmray.generation.base import RequestError
from mmray.generation.dalle_mini import DalleMini, DalleMiniRequest
from tests.near import assert_near_pictures

if importlib.util.find_spec("min_dalle") is None and not os.environ.get("CI"):
    pytest.skip("min-dalle is not installed: pip install 'mmray[dalle-mini]'", allow_module_level=True)

# What min-dalle itself makes of a folder: its constructor is kept from the hub and told the sizes of tiny networks.
OWN = """
import json, sys, numpy, requests, torch
requests.get = lambda *_: None
from min_dalle import MinDalle
torch.set_num_threads(1)
folder, jobs = sys.argv[1], json.loads(sys.argv[2])
own = MinDalle(folder, device="cpu", is_mega=False, is_reusable=False, is_verbose=False)
words = len(own.tokenizer.token_from_subword)
vars(own).update(layer_count=2, attention_head_count=1, embed_count=64, glu_embed_count=96, text_vocab_count=words)
made = [own.generate_image(text, seed, 1, supercondition_factor=guidance) for text, seed, guidance in jobs]
numpy.save(sys.argv[3], numpy.stack([numpy.asarray(one) for one in made]))
"""
# What is said of each of some folders.
REFUSED = """
import json, sys
from mmray.errors import ConfigError
from mmray.generation.dalle_child import Painter
from tests.near import assert_near_pictures
for folder in sys.argv[1:]:
    try:
        Painter(folder, "cpu", "float32", 1)
        print(json.dumps("loaded"))
    except ConfigError as error:
        print(json.dumps(str(error)))
"""


class CancelledError(Exception):
    """What ends the work."""


def silent(done, total):
    """Be told, and do nothing."""


def until(last, seen=None):
    """Return a progress that ends the work at a token, before the costly end of a picture."""

    def progress(done, total):
        if seen is not None:
            seen.append((done, total))
        if done == last:
            raise CancelledError

    return progress


def asked(prompt="a dog", **fields):
    return DalleMiniRequest(prompt=prompt, **fields)


def processes():
    """Return the processes of DALL·E mini that this one has started, zombies too."""
    children = psutil.Process().children()
    return [one for one in children if one.status() == "zombie" or any("dalle_child" in word for word in one.cmdline())]


def of_torch():
    flags = torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32
    return torch.is_grad_enabled(), torch.get_num_threads(), flags, torch.random.get_rng_state().tolist()


@pytest.fixture(scope="module")
def loaded(tiny):
    """Load it where every way out of this machine is closed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:1")
        return DalleMini(model="-").load("cpu", {"model": tiny("dalle_mini")})


def test_this_process_stays_as_it_was(loaded):
    before = of_torch()
    with pytest.raises(CancelledError):
        loaded([asked()], until(2))
    assert of_torch() == before
    assert "min_dalle" not in sys.modules
    assert len(processes()) == 1


def test_what_progress_raises_ends_the_work_and_the_networks_stay(loaded):
    (process,) = processes()
    begun_s, seen = cpu_s(process), []
    with pytest.raises(CancelledError):
        loaded([asked(), asked("a cat")], until(20, seen))
    assert seen == [(token, 512) for token in range(1, 21)]
    spent_s, again = cpu_s(process) - begun_s, []
    with pytest.raises(CancelledError):
        loaded([asked("a bird")], until(2, again))
    assert again == [(1, 256), (2, 256)]
    assert processes() == [process]
    # The next call waits for what goes on: the 492 tokens left would take 25 times as long as these 20 did.
    assert cpu_s(process) - begun_s < 6 * spent_s


def cpu_s(process):
    """Return the CPU time that a process has used."""
    return sum(process.cpu_times()[:2])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("x" * 62, r"prompt: has 65 tokens, and .*dalle_mini reads 64"),
        ("a dog " * 30, r"prompt: has .* tokens"),
        ("ein Käfig", r"prompt: has letters .* ä; write it in plain ASCII"),
        ("一只狗", r"prompt: has letters .* 一 只 狗"),
    ],
)
def test_a_prompt_that_would_be_cut_is_refused(loaded, prompt, message):
    (error,) = loaded([asked(prompt)], silent)
    assert isinstance(error, RequestError)
    with pytest.raises(RequestError, match=message):
        raise error


@pytest.mark.parametrize("prompt", ["", "x" * 61, "a dog 🐶❤️"])
def test_other_prompts_are_read(loaded, prompt):
    with pytest.raises(CancelledError):
        loaded([asked(prompt)], until(1))


def kill(done, total):
    processes()[0].kill()


def test_a_process_that_dies_is_said(loaded):
    with pytest.raises(MmrayError, match=r"dalle_mini: the process of DALL·E mini ended \(signal 9\)"):
        loaded([asked()], kill)
    assert processes() == []


@pytest.mark.parametrize("fields", [{"steps": 3}, {"width_px": 512}, {"guidance": -1}, {"negative_prompt": "ugly"}])
def test_a_request_of_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        asked(**fields)


def test_half_precision_and_batches_are_refused_on_a_cpu():
    with pytest.raises(ConfigError, match="bfloat16 needs a GPU"):
        DalleMini(precision="bfloat16").load("cpu", {"model": "-"})
    with pytest.raises(ValidationError, match="batch_size"):
        DalleMini(batch_size=2)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"min_dalle: pip install 'mmray\[dalle-mini\]'"):
        DalleMini().load("cpu", {"model": "-"})


def changed(file, **tensors):
    found = torch.load(file, weights_only=True) | tensors
    torch.save({name: tensor for name, tensor in found.items() if tensor is not None}, file)


def cut(file):
    file.write_bytes(file.read_bytes()[:-1000])


DAMAGES = {
    "none": (shutil.rmtree, "", r"holds no DALL·E mini: dalle_bart_mini or dalle_bart_mega is missing"),
    "missing": (
        lambda file: changed(file, **{"layers.1.self_attn.k_proj.weight": None}),
        "encoder.pt",
        r"encoder\.pt: tensor layers\.1\.self_attn\.k_proj\.weight is missing",
    ),
    "reshaped": (
        lambda file: changed(file, **{"lm_head.weight": torch.zeros(5, 64)}),
        "decoder.pt",
        r"decoder\.pt: tensor lm_head\.weight is \(5, 64\) .* should be \(16385, 64\)",
    ),
    "no numbers": (
        lambda file: changed(file, **{"decoder.conv_out.bias": torch.full((3,), torch.nan)}),
        "detoker.pt",
        r"detoker\.pt: tensor decoder\.conv_out\.bias",
    ),
    "cut": (cut, "decoder.pt", r"decoder\.pt: cannot be read"),
    "narrow": (
        lambda file: changed(file, **{"embed_tokens.weight": torch.zeros(101, 60)}),
        "encoder.pt",
        r"embed_tokens\.weight is 60 wide",
    ),
    "bloated": (
        lambda file: changed(file, **{"embed_tokens.weight": torch.zeros(1).expand(2**40, 64)}),
        "encoder.pt",
        r"encoder\.pt: its tensors claim more numbers",
    ),
    "pickled": (lambda file: torch.save(os.system, file), "encoder.pt", r"encoder\.pt: cannot be read as tensors"),
    "words": (lambda file: file.write_text('{"<s>": 0, "</s>": 2, "<unk>": 900}'), "vocab.json", r"'<unk>' is 900"),
    "no words": (Path.unlink, "merges.txt", r"merges\.txt: cannot be read"),
}


def test_damaged_and_foreign_folders_are_refused(tiny, tmp_path):
    for name, (damage, file, _) in DAMAGES.items():
        bart = Path(shutil.copytree(tiny("dalle_mini"), tmp_path / name)) / "dalle_bart_mini"
        damage(bart.parent / "vqgan" / file if file == "detoker.pt" else bart / file)
    folders = [str(tmp_path / name) for name in DAMAGES]
    said = subprocess.run([sys.executable, "-c", REFUSED, *folders], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in said.stdout.splitlines()]
    for name, words in zip(DAMAGES, found, strict=True):
        with pytest.raises(ConfigError, match=DAMAGES[name][2]):
            raise ConfigError(words)
        assert str(tmp_path / name) in words


@pytest.mark.slow
def test_after_a_death_the_next_call_has_another_process(loaded):
    with pytest.raises(MmrayError, match="signal 9"):
        loaded([asked()], kill)
    seen = []
    with pytest.raises(CancelledError):
        loaded([asked()], until(2, seen))
    assert seen == [(1, 256), (2, 256)]
    assert len(processes()) == 1


@pytest.mark.slow
def test_numbers_that_are_none_are_an_error_that_names_them(tiny, tmp_path):
    folder = Path(shutil.copytree(tiny("dalle_mini"), tmp_path / "copy"))
    changed(folder / "dalle_bart_mini" / "decoder.pt", **{"lm_head.weight": torch.full((16_385, 64), 3e38)})
    broken = DalleMini().load("cpu", {"model": str(folder)})
    with pytest.raises(MmrayError, match=r"copy: the process .* ended \(exit code 1\): RuntimeError: .*nan"):
        broken([asked()], silent)


@pytest.mark.slow
def test_a_refused_folder_and_a_function_that_is_dropped_leave_no_process(tiny, tmp_path, loaded):
    before = processes()
    with pytest.raises(ConfigError, match="holds no DALL·E mini"):
        DalleMini().load("cpu", {"model": str(tmp_path)})
    assert processes() == before
    other = DalleMini().load("cpu", {"model": tiny("dalle_mini")})
    assert len(processes()) == len(before) + 1
    del other
    gc.collect()
    assert processes() == before


@pytest.mark.slow
def test_it_ends_with_the_process_that_started_it(tiny):
    code = (
        "import os, sys, psutil; from mmray.generation.dalle_mini import DalleMini\n"
        "made = DalleMini().load('cpu', {'model': sys.argv[1]})\n"
        "print(psutil.Process().children()[0].pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, tiny("dalle_mini")], capture_output=True, text=True, check=False)
    assert done.returncode == -9
    for _ in range(100):
        if not psutil.pid_exists(int(done.stdout)) or psutil.Process(int(done.stdout)).status() == "zombie":
            return
        time.sleep(0.1)
    pytest.fail("it is still there")


@pytest.mark.slow
def test_a_seed_gives_min_dalles_own_picture_whatever_else_is_asked(tiny, tmp_path, loaded):
    jobs = [("a dog", 7, 16), ("a cat", 7, 16), ("a dog", 8, 4.5)]
    file = tmp_path / "own.npy"
    command = [sys.executable, "-W", "ignore", "-c", OWN, tiny("dalle_mini"), json.dumps(jobs), str(file)]
    subprocess.run(command, check=True)
    expected = np.load(file)

    requests = [asked(prompt, seed=seed, guidance=guidance) for prompt, seed, guidance in jobs]
    seen = []
    together = loaded([*requests[:2], asked("é"), *requests[2:]], lambda *step: seen.append(step))
    assert isinstance(together.pop(2), RequestError)
    assert seen == [(token, 768) for token in range(1, 769)]
    pictures = [result.picture for result in together]
    assert_near_pictures(pictures, expected)
    assert pictures[0].shape == (256, 256, 3)
    assert min(np.abs(pictures[0].astype(int) - other).mean() for other in pictures[1:]) > 10
    (alone,) = loaded([asked(seed=7)], silent)  # the guidance of the generator is 16
    assert_near_pictures(alone.picture, expected[0])


@pytest.mark.slow
def test_a_seed_of_0_is_one_too(loaded):
    first, again = loaded([asked(), asked()], silent)
    assert_near_pictures(first.picture, again.picture)
