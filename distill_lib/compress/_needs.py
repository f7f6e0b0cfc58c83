"""Says what to install where a package of the extra is missing."""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import Any

from distill_lib.extras import missing

PACKAGES = {
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "tensorrt": "tensorrt",
    "torch_pruning": "torch-pruning",
    "torchao": "torchao",
}


def need(module: str, what: str) -> Any:
    """Import a module of the extra ``compress``.

    Raises:
        ModuleNotFoundError: it is not installed; names who needs it and what to install.
    """
    root = module.partition(".")[0]
    # without CUDA torchao reports each of its GPU kernels, and torch how torchao registers itself
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != root:
            raise
        raise missing(what, PACKAGES[root], module=root) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
