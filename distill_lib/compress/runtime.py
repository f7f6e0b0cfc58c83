"""ONNX files on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_lib.arguments import as_path, check_counts, checked
from distill_lib.checkpoints.files import sha256
from distill_lib.signals import Batch, Signals, as_batch

from ._needs import need

__all__ = ["ExportError", "OnnxModel"]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class ExportError(RuntimeError):
    """A model that cannot be exported, or not faithfully, or a file that cannot be read again."""


@checked
class OnnxModel:
    """An ONNX file on ONNX Runtime: a teacher like any other, for ``evaluate`` and ``distill``.

    Reading it runs nothing in it, and takes at most 100 times its bytes in memory; weights outside
    the file are read from its folder alone. What it takes when it is asked is up to the program.

    Args:
        path: The file.
        device: ``cpu``, ``cuda`` or ``tensorrt``.
        threads: Of one operator; 1 by default.

    Raises:
        RuntimeError: a device that this machine, or this ONNX Runtime, does not have.
        ExportError: a torn file, or one that is not ONNX.
        FileNotFoundError: no such file.
    """

    def __init__(self, path: str | Path, device: str = "cpu", threads: int = 1) -> None:
        ort = need("onnxruntime", "compress.OnnxModel")
        if device not in PROVIDERS:
            raise ValueError(f"device is one of {', '.join(PROVIDERS)}, got {device!r}")
        if PROVIDERS[device] not in ort.get_available_providers():
            raise RuntimeError(
                f"{device} needs a GPU, and ONNX Runtime's build for it (onnxruntime-gpu); here it "
                f"has {', '.join(ort.get_available_providers())}"
            )
        self.path: Path = as_path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        check_counts(threads=threads)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session: Any = ort.InferenceSession(
                str(path),
                options,
                providers=[PROVIDERS[device]],
                # a file of 200 bytes can say a constant of gigabytes, to be folded as it is read
                disabled_optimizers=["ConstantFolding"],
                enable_fallback=0,  # which would print, and try the same again
            )
        except Exception as error:  # of many classes, each ONNX Runtime's own
            raise ExportError(f"{path} is torn, or no ONNX file: {error}") from error
        self.inputs: list[str] = [one.name for one in self.session.get_inputs()]
        self.outputs: list[str] = [one.name for one in self.session.get_outputs()]

    def feed(self, batch: Batch | Tensor) -> dict[str, Any]:
        """The NumPy arrays that the file asks for, from a batch.

        Raises:
            KeyError: one is missing; the message lists what there is.
        """
        named = {"inputs": batch} if isinstance(batch, Tensor) else as_batch(batch)
        missing = [name for name in self.inputs if name not in named]
        if missing:
            raise KeyError(f"{self.path.name} asks for {missing}; the batch has {', '.join(named)}")
        return {name: torch.as_tensor(named[name]).cpu().numpy() for name in self.inputs}

    def __call__(self, batch: Batch | Tensor) -> Signals:
        """The signals for a batch, or for a tensor of inputs."""
        feed = self.feed(batch)
        try:
            said = self.session.run(None, feed)
        except Exception as error:  # of many classes, each ONNX Runtime's own
            raise ExportError(f"{self.path.name} cannot answer this batch: {error}") from error
        return {n: torch.from_numpy(v) for n, v in zip(self.outputs, said, strict=True)}

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path)
