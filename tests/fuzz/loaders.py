"""Every function of the library that opens a file which somebody else may have written.

For each: a whole file of ours, how it is read, which errors are the library's own, how its format
is changed with the checksums made right again, and the memory that a file may take.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import importlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import foreign
import formats
import seeds
import torch
from mutants import mutants
from seeds import DATA, PLAN, net

from distill_lib import CE, KD, Cache, compress, distill
from distill_lib.checkpoints import CheckpointError, load_checkpoint, verify, write_manifest
from distill_lib.compress import ExportError
from distill_lib.data import DataError, TextDataset, fashion, hub, sources
from distill_lib.data.packages import Package
from distill_lib.integrations.rsl_rl import envfile, layouts
from distill_lib.teachers import CacheError

MB = 2**20
Change = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Loader:
    """One way into the library.

    Args:
        make: A whole file.
        read: ``read(folder, content)`` puts the content there and reads it.
        own: The errors that a reader of the docs expects.
        changes: What is special to the format.
        factor: The bytes that a file may take in memory, in times its own, and
        room: in addition to these.
    """

    make: Callable[[], bytes]
    read: Callable[[Path, bytes], Any]
    own: type[Exception]
    changes: tuple[Change, ...] = ()
    factor: int = 100
    room: int = 64 * MB

    def bound(self, content: bytes) -> int:
        return self.factor * len(content) + self.room

    @functools.cached_property
    def whole(self) -> bytes:
        return self.make()

    def mutant(self, key: str) -> bytes:
        """The same file for the same key."""
        rnd = random.Random(key)
        if self.changes and rnd.random() < 0.6:
            with contextlib.suppress(formats.Unchanged):
                return rnd.choice(self.changes)(self.whole, rnd)
        return next(mutants(self.whole, 1, key))  # type: ignore[arg-type]


def put(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


# ---- checkpoints ----


def checkpoint(name: str) -> Callable[[Path, bytes], Any]:
    def read(folder: Path, content: bytes) -> None:
        found = load_checkpoint(put(folder, name, content))
        with contextlib.suppress(CheckpointError):
            found.part("actor")
        found.load_into(net())

    return read


def policy(folder: Path, content: bytes) -> None:
    path = put(folder, "model_3.pt", content)
    layouts.load_teacher(path, "elu")
    layouts.upgrade(path, folder / "new.pt")


def agent(folder: Path, content: bytes) -> None:
    put(folder, "params/agent.yaml", content)
    layouts.load_teacher(put(folder, "model_3.pt", seeds.rsl_rl_5()))


def environment(folder: Path, content: bytes) -> None:
    put(folder, "params/env.yaml", content)
    envfile.read_env(folder / "model_3.pt").commands(torch.ones(1, 2), ["a_hip", "a_knee"])


def in_folder(name: str) -> Callable[[Path, bytes], Any]:
    def read(folder: Path, content: bytes) -> None:
        put(folder, "hf/config.json", b'{"a": 1}')
        if name == "config.json":
            put(folder, "hf/model.safetensors", seeds.safetensors())
        if name.endswith(".index.json"):
            for place, part in seeds.shards().items():
                put(folder, f"hf/{place}", part)
        path = put(folder, f"hf/{name}", content).parent
        try:
            load_checkpoint(path).load_into(net())
        finally:
            for one in path.iterdir():
                one.unlink()

    return read


def manifest(folder: Path, content: bytes) -> None:
    put(folder, "named/a.bin", b"a"), put(folder, "named/b/c.bin", b"")
    put(folder, "named/SHA256SUMS", content)
    verify(folder / "named")


def written_manifest() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        put(Path(folder), "a.bin", b"a"), put(Path(folder), "b/c.bin", b"")
        write_manifest(folder)
        return Path(folder, "SHA256SUMS").read_bytes()


# ---- training, caches, small files ----


def resume(folder: Path, content: bytes) -> None:
    path = put(folder, "c", content)
    distill(net(), net(1), DATA.batches(16), CE() + KD(), checkpoint=path, seed=0, epochs=1)


def cache(folder: Path, content: bytes) -> None:
    Cache(put(folder, "t.cache", content))({"index": torch.arange(5)})


def build(folder: Path, content: bytes) -> None:
    path = put(folder, "t.cache", content)
    Cache.build(path, net(1), DATA, block=16, progress=False)


def packed(folder: Path, content: bytes) -> None:
    compress.load_packed(net(), put(folder, "m.packed", content))


def pruned(folder: Path, content: bytes) -> None:
    compress.load_pruned(net, put(folder, "m.safetensors", content))


def exported(folder: Path, content: bytes) -> None:
    compress.load_exported(put(folder, "m.pt2", content))


def onnx(folder: Path, content: bytes) -> None:
    file = put(folder, "m.onnx", content)
    compress.OnnxModel(file)
    with contextlib.suppress(ExportError, ModuleNotFoundError):  # what TensorRT would not read
        compress.to_tensorrt(file, folder / "engine")


def to_int8(folder: Path, content: bytes) -> None:
    try:
        compress.quantize_onnx(put(folder, "m.onnx", content), folder / "q.onnx")
    except ValueError as error:  # a file without what could be rounded is no torn one
        if "none of kinds" not in str(error):
            raise


def beside(name: str) -> Callable[[Path, bytes], Any]:
    def read(folder: Path, content: bytes) -> None:
        module = importlib.import_module("distill_lib.integrations.transformers.beside")
        who = {"teacher": "a", "objective": "b"}
        module.write(folder / "beside", who, {"o": net()})
        put(folder, f"beside/{name}", content)
        module.read(folder / "beside", who, {"o": net()})

    return read


# ---- data ----


def package(archive: str) -> Callable[[Path, bytes], Any]:
    """Of the sum that it should have, so that it is unpacked."""

    def read(folder: Path, content: bytes) -> None:
        put(folder, f"data/pkg/{archive}", content)
        (folder / "data/pkg/words").unlink(missing_ok=True)
        known = Package(
            "p", "1", archive, hashlib.sha256(content).hexdigest(), {"words": "inside/words"},
            {"words": hashlib.sha256(seeds.WORDS).hexdigest()}, "pkg",
        )  # fmt: skip
        known.fetch(folder / "data")

    return read


def gz(folder: Path, content: bytes) -> None:
    name = next(iter(fashion.FILES))
    whole = gzip.decompress(seeds.images())
    with mock.patch.dict(fashion.FILES, {name: hashlib.sha256(whole).hexdigest()}):
        assert fashion._read(put(folder, name, content)) == whole


class Letters:
    """A tokenizer of letters."""

    model_max_length, pad_token_id = 64, 0

    def get_vocab(self) -> dict[str, int]:
        return {"a": 1}

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(c) - 96 for c in text] for text in texts]}


def tokens(folder: Path, content: bytes) -> None:
    texts = TextDataset(("abc", "de", "fghij"), torch.tensor([0, 1, 0]), ("n", "p"))
    with mock.patch.dict("os.environ", {"DISTILL_DATA": str(folder / "tok")}):
        texts.tokenize(Letters())
        path = next((folder / "tok/tokens").glob("*.npz"))
        path.write_bytes(content)
        try:
            made = texts.tokenize(Letters()).tokens
        finally:
            path.unlink()
    assert made is not None and made.starts.tolist() == [0, 3, 5, 10]


@contextlib.contextmanager
def fetched(folder: Path, content: bytes) -> Iterator[None]:
    path = put(folder, "x.parquet", content)
    sums = dict.fromkeys(hub.SUMS, hashlib.sha256(content).hexdigest())
    with (
        mock.patch("huggingface_hub.hf_hub_download", lambda *_, **__: str(path)),
        mock.patch.dict(hub.SUMS, sums),
    ):
        yield


def sst2(folder: Path, content: bytes) -> None:
    with fetched(folder, content):
        hub.sst2("test")


def images(folder: Path, content: bytes) -> None:
    with fetched(folder, content):
        sources.from_hub(folder / "store", "train", list(fashion.FILES))


SETTINGS = 40 * 16 * MB  # what 16 MiB of settings may take
ZIP, PICKLE, JSON = formats.zipped, formats.pickled, formats.text
TENSORS = formats.safetensors

LOADERS: dict[str, Loader] = {
    "state dict": Loader(seeds.state_dict, checkpoint("a.pt"), CheckpointError, (ZIP, PICKLE)),
    "state dict, before 1.6": Loader(
        seeds.legacy, checkpoint("a.pth"), CheckpointError, (formats.legacy,)
    ),
    "RSL-RL 2": Loader(seeds.rsl_rl_2, policy, CheckpointError, (ZIP, PICKLE)),
    "RSL-RL 3": Loader(seeds.rsl_rl_3, policy, CheckpointError, (ZIP, PICKLE)),
    "RSL-RL 5": Loader(seeds.rsl_rl_5, policy, CheckpointError, (ZIP, PICKLE)),
    "Stable-Baselines3": Loader(
        seeds.sb3, checkpoint("a.zip"), CheckpointError, (ZIP,), room=64 * MB + SETTINGS
    ),
    "safetensors": Loader(
        seeds.safetensors, checkpoint("a.safetensors"), CheckpointError, (TENSORS,)
    ),
    "RSL-RL, settings": Loader(
        seeds.agent, agent, CheckpointError, (formats.yaml,), room=160 * MB
    ),
    "Isaac Lab, environment": Loader(
        seeds.environment, environment, CheckpointError, (formats.yaml,), room=160 * MB
    ),
    "folder, settings": Loader(seeds.settings, in_folder("config.json"), CheckpointError, (JSON,)),
    "folder, index": Loader(
        seeds.index, in_folder("model.safetensors.index.json"), CheckpointError, (JSON,)
    ),
    "folder, safetensors": Loader(
        seeds.safetensors, in_folder("model.safetensors"), CheckpointError, (TENSORS,)
    ),
    "folder, adapter": Loader(
        seeds.safetensors, in_folder("adapter_model.safetensors"), CheckpointError, (TENSORS,)
    ),
    "folder, pickle": Loader(
        seeds.state_dict, in_folder("pytorch_model.bin"), CheckpointError, (ZIP, PICKLE)
    ),
    "manifest": Loader(written_manifest, manifest, CheckpointError),
    "training": Loader(seeds.training, resume, ValueError, (ZIP, PICKLE)),
    "cache": Loader(seeds.cache, cache, CacheError, (formats.cache,)),
    "cache, gone on with": Loader(seeds.half_a_cache, build, CacheError, (formats.cache,)),
    "packed": Loader(seeds.packed, packed, CheckpointError, (formats.packed,)),
    "pruned": Loader(
        lambda: seeds.safetensors({"plan": json.dumps(PLAN)}), pruned, CheckpointError,
        (TENSORS, formats.plan),
    ),
    "program": Loader(seeds.program, exported, ExportError, (ZIP, foreign.program)),
    "ONNX": Loader(seeds.onnx, onnx, ExportError, (foreign.onnx,)),
    "ONNX, to be rounded": Loader(seeds.onnx, to_int8, ExportError, (foreign.onnx,)),
    "Trainer, note": Loader(seeds.note, beside("distillation.json"), ValueError, (JSON,)),
    "Trainer, tensors": Loader(
        seeds.beside, beside("distillation.safetensors"), ValueError, (TENSORS,)
    ),
    "wheel": Loader(seeds.wheel, package("p-1.whl"), DataError, (ZIP,), room=2 * 256 * MB),
    "sdist": Loader(
        seeds.sdist, package("p-1.tar.gz"), DataError, (formats.tar,), room=3 * 256 * MB
    ),
    "gz": Loader(seeds.images, gz, DataError, (formats.gz,), room=160 * MB),
    "tokens": Loader(seeds.tokens, tokens, DataError, (ZIP, foreign.npz)),
    "parquet, texts": Loader(seeds.texts_table, sst2, DataError, (foreign.parquet,)),
    "parquet, images": Loader(
        seeds.images_table, images, sources.Unavailable, (foreign.parquet,), room=256 * MB
    ),
}  # fmt: skip
