"""Models of the hub: the page's own cells, on a hub's cache with small models under large names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
NAMES = {  # their commits, and widths that a test can bear
    "Qwen/Qwen3-1.7B": ("70d244cc86ccca08cf5af4e1e306ecf908b1ad5e", 32),
    "Qwen/Qwen3-0.6B": ("c1899de289a04d12100db370d81485cdf75e47ca", 16),
}
RUN = """
import sys
from pathlib import Path
sys.path.insert(0, "book/_tools")
import bookcache

page = bookcache.read(Path("chapters/language/large_vocabularies.md"))
codes = [cell.source for cell in page.cells if cell.cell_type == "code"]
marks = "save_pretrained", "AutoModelForCausalLM, name"
wanted = [codes[0], *(c for c in codes if any(mark in c for mark in marks))]
assert len(wanted) == 3
for code in wanted:
    exec(code, globals())
print(names, *(f"{type(m).__name__} {m.config.hidden_size}" for m in (large, small)))
print(len(history["loss"]), history["loss"][0] > history["loss"][-1] > 0)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A cache as the hub's own client leaves it."""
    from distill_lib import zoo

    for seed, (name, (commit, width)) in enumerate(NAMES.items()):
        torch.manual_seed(seed)
        config = transformers.Qwen3Config(
            vocab_size=512, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True,
            max_position_embeddings=512, initializer_range=0.1,
        )  # fmt: skip
        home = tmp_path / f"models--{name.replace('/', '--')}"
        place = home / "snapshots" / commit
        transformers.Qwen3ForCausalLM(config).save_pretrained(place)
        zoo.reference_tokenizer().save_pretrained(place)
    return tmp_path


def ran(cache: Path) -> subprocess.CompletedProcess[str]:
    told = {"DISTILL_PROFILE": "full", "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DISTILL_QUIET": "1"}  # fmt: skip
    command = [sys.executable, "-c", RUN]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **told}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow  # the page itself runs so where there is no hub
def test_without_the_models_smaller_ones_stand_in_and_it_is_said(tmp_path: Path) -> None:
    done = ran(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Qwen/Qwen3-1.7B cannot be had here" in done.stdout
    assert done.stdout.splitlines()[-1] == "25 True"
    assert "LlamaForCausalLM 128 LlamaForCausalLM 32" in done.stdout


def test_the_full_profile_reads_both_models_by_their_names_and_trains(hub: Path) -> None:
    done = ran(hub)
    assert done.returncode == 0, done.stderr[-2000:]
    *_, first, second = done.stdout.splitlines()
    sizes = (f"Qwen3ForCausalLM {width}" for _, width in NAMES.values())
    assert first == " ".join([str(tuple(NAMES)), *sizes])
    assert second == "25 True"
