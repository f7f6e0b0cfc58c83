"""TRL's own trainers, imported without the notices that it and its dependencies print."""

from __future__ import annotations

import importlib
import os
import warnings
from importlib.util import find_spec
from typing import Any
from unittest import mock

from distill_lib.extras import missing

__all__ = ["trainer"]


def trainer(module: str, name: str) -> Any:
    """A class of TRL.

    Raises:
        ModuleNotFoundError: TRL is not installed; the message says how to get it.
        ImportError: this release of TRL has no such class.
    """
    if find_spec("trl") is None:
        raise missing("distill_lib.integrations.trl", "trl")
    with mock.patch.dict(os.environ, TRL_EXPERIMENTAL_SILENCE="1"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ImportError(
                f"{module}.{name} is not in this release of TRL ({error}); 1.16 has it", name=module
            ) from error
