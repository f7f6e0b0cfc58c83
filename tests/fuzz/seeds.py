"""Whole files, of ours, small."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from distill_lib import CE, KD, Cache, compress, distill
from distill_lib.data import Dataset

WORDS = bytes(range(256))
PLAN = {"shapes": {"0.weight": [3, 4], "2.weight": [2, 3]}, "sizes": {"0": {"out_features": 3}}}


def net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def _data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (40,), generator=generator)
    return Dataset(torch.randn(40, 4, generator=generator), labels, ("a", "b"))


DATA = _data()


def written(write: Callable[[Path], Any], name: str = "f") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def saved(value: Any, **how: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content, **how)
    return content.getvalue()


def state_dict() -> bytes:
    return saved(dict(net().state_dict()))


def legacy() -> bytes:
    return saved(dict(net().state_dict()), _use_new_zipfile_serialization=False)


def rsl_rl_2() -> bytes:
    state = net().state_dict()
    both = {f"{who}.{k}": v for who in ("actor", "critic") for k, v in state.items()}
    norm = {f"_{n}": torch.ones(1, 4) for n in ("mean", "var", "std")} | {"count": torch.tensor(3)}
    return saved({
        "model_state_dict": {**both, "std": torch.ones(2)}, "iter": 3, "infos": None,
        "obs_norm_state_dict": norm, "privileged_obs_norm_state_dict": norm,
    })  # fmt: skip


def rsl_rl_3() -> bytes:
    state = net().state_dict()
    both = {f"{who}.{k}": v for who in ("actor", "critic") for k, v in state.items()}
    norm = {f"actor_obs_normalizer._{n}": torch.ones(1, 4) for n in ("mean", "var", "std")}
    return saved(
        {"model_state_dict": {**both, **norm, "std": torch.ones(2)}, "iter": 3, "infos": None}
    )


def rsl_rl_5() -> bytes:
    named = {f"mlp.{k}": v for k, v in net().state_dict().items()}
    named["distribution.std_param"] = torch.ones(2)
    roles = {f"{role}_state_dict": named for role in ("actor", "critic")}
    return saved({**roles, "iter": 4, "infos": None})


def sb3() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("data", json.dumps({"gamma": 0.9, "n": [1, {"a": None}]}))
        file.writestr("policy.pth", state_dict())
        file.writestr("_stable_baselines3_version", "2.4")
    return content.getvalue()


def safetensors(meta: dict[str, str] | None = None) -> bytes:
    from safetensors.torch import save

    return bytes(save(dict(net().state_dict()), meta or {"made": "here"}))


def shards() -> dict[str, bytes]:
    """The weights of :func:`safetensors`, in two files."""
    from safetensors.torch import save

    every = list(net().state_dict().items())
    return {"a.safetensors": bytes(save(dict(every[:1]))),
            "b.safetensors": bytes(save(dict(every[1:])))}  # fmt: skip


def index() -> bytes:
    names = list(net().state_dict())
    places = {name: "b.safetensors" if n else "a.safetensors" for n, name in enumerate(names)}
    return json.dumps({"metadata": {"total_size": 9}, "weight_map": places}).encode()


def settings() -> bytes:
    return b'{"model_type": "bert", "a": [1, 2, {"b": null}], "labels": {"0": "x"}}'


def agent() -> bytes:
    return b"""seed: 0
actor: {class_name: MLPModel, hidden_dims: !!python/tuple [8, 7], activation: elu}
algorithm: {a: !!python/object/apply:builtins.slice [null, 1.5, &x [2]], b: *x}
"""


def environment() -> bytes:
    return b"""sim: {dt: 0.005, gravity: !!python/tuple [0.0, 0.0, -9.81]}
decimation: 4
scene: {robot: {init_state: {joint_pos: {.*_hip: 0.1, .*_knee: -1.5}}}}
observations:
  policy:
    concatenate_terms: true
    history_length: null
    speed: {func: 'mdp:speed', clip: !!python/tuple [-1.0, .inf], scale: 0.5, history_length: 2}
    joints: {func: 'mdp:joint_pos_rel', clip: null, scale: !!python/tuple [1.0, 2.0]}
actions:
  legs:
    class_type: 'mdp:JointPositionAction'
    joint_names: [.*_hip, .*_knee]
    scale: {.*_hip: 0.25}
    offset: 0.0
    clip: {.*: [-3.0, 3.0]}
    use_default_offset: true
events: {a: !!python/object/apply:builtins.slice [null, 1.5, &x [2]], b: *x}
"""


def training() -> bytes:
    def write(path: Path) -> None:
        distill(net(), net(1), DATA.batches(16), CE() + KD(), checkpoint=path, seed=0, epochs=1)

    return written(write)


def cache() -> bytes:
    return written(lambda path: Cache.build(path, net(1), DATA, block=16, progress=False))


def half_a_cache() -> bytes:
    """As a kill leaves it: the last block is not written."""
    whole = bytearray(cache())
    first = 4096 + 8 * len(DATA)
    whole[first + 32 : first + 48] = bytes(16)
    return bytes(whole)


def packed() -> bytes:
    model = net()
    with torch.no_grad():
        model[0].weight[model[0].weight.abs() < 0.2] = 0
        model[2].weight.copy_(model[2].weight.sign() * 0.3)
    return written(lambda path: compress.save_packed(model, path))


def program() -> bytes:
    return written(lambda path: compress.to_exported(net(), torch.zeros(2, 4), path), "m.pt2")


def onnx() -> bytes:
    return written(lambda path: compress.to_onnx(net(), torch.zeros(2, 4), path), "m.onnx")


def note() -> bytes:
    return b'{"teacher": "a", "objective": "b"}'


def beside() -> bytes:
    from safetensors.torch import save

    return bytes(save({f"o.{k}": v for k, v in net().state_dict().items()}))


def wheel() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("inside/words", WORDS)
    return content.getvalue()


def sdist() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as file:
        member = tarfile.TarInfo("inside/words")
        member.size = len(WORDS)
        file.addfile(member, io.BytesIO(WORDS))
    return content.getvalue()


def images() -> bytes:
    head = struct.pack(">4B3I", 0, 0, 8, 3, 2, 4, 4)
    return gzip.compress(head + bytes(32), mtime=0)


def tokens() -> bytes:
    content = io.BytesIO()
    ids = np.arange(1, 11, dtype=np.int32)
    np.savez(content, ids=ids, starts=np.array([0, 3, 5, 10], np.int64))
    return content.getvalue()


def table(**columns: Any) -> bytes:
    import pyarrow
    from pyarrow import parquet

    content = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), content)
    return content.getvalue()


def texts_table() -> bytes:
    return table(sentence=["a", "b"], label=[0, 1], idx=[0, 1])


def png() -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new("L", (28, 28)).save(content, "PNG")
    return content.getvalue()


def images_table() -> bytes:
    return table(image=[{"bytes": png(), "path": "x"}] * 3, label=[0, 1, 2])
