"""A second device for machines that have none.

Its tensors say that they are on ``cuda:0`` and hold their numbers on the CPU. An operation on
tensors of both devices fails as it does on a GPU, so that code which forgets to bring something
along is found everywhere. It changes torch for the whole process: use :func:`tried`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

THERE = torch.device("cuda", 0)
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default, aten.copy.default}
INDEXED = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default,
    aten._index_put_impl_.default,
}  # fmt: skip
# Under vmap they make tensors of their own, with the device that autograd's code sees
MAKE_THEIR_OWN = {aten.native_batch_norm.default, aten.native_batch_norm_backward.default}
IN_BACKWARD = [False]


class Far(Tensor):
    """A tensor of the second device. What autograd's own code sees is one of the CPU."""

    near: Tensor
    device = property(lambda self: THERE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        made = Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(),
            dtype=near.dtype, layout=near.layout, device="cpu",
        )  # fmt: skip
        made.near = near.detach()
        return made

    def __repr__(self) -> str:
        return f"Far({self.near})"

    def __array__(self, *args: Any, **options: Any) -> Any:
        return self.numpy()

    def numpy(self, *args: Any, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def get_device(self) -> int:
        return 0

    def data_ptr(self) -> int:
        return self.near.data_ptr()

    def untyped_storage(self) -> Any:
        return self.near.untyped_storage()

    def tolist(self) -> Any:
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def far(value: Any, known: dict[int, Far]) -> Any:
    if isinstance(value, Far) or not isinstance(value, Tensor):
        return value
    return known[id(value)] if id(value) in known else Far(value)


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the numbers, if all are on one device."""
    flat, spec = tree_flatten((args, kwargs))
    others = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, Far) and x.dim()]
    fars = [x for x in flat if isinstance(x, Far)]
    asked = kwargs.get("device")
    asked = None if asked is None else torch.device(asked).type
    if IN_BACKWARD[-1] and func not in COPIES:
        asked = None  # autograd's own code thinks that it is on the CPU
    # an index may come from the CPU, and vmap counts rows of tables there
    indices = func in INDEXED | {aten.add.Tensor} and not any(x.is_floating_point() for x in others)
    if func not in COPIES | MAKE_THEIR_OWN and fars and others and not indices:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! ({func})"
        )
    generator = kwargs.get("generator")
    if generator is not None and (fars or asked == "cuda") and generator.device.type == "cpu":
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")
    near = [x.near if isinstance(x, Far) else x for x in flat]
    near = [torch.device("cpu") if isinstance(x, torch.device) else x for x in near]
    plain, options = tree_unflatten(near, spec)
    out = func(*plain, **options)
    if func is aten.copy_.default:
        return args[0]
    if func is aten._to_copy.default and any(out is x for x in near):
        out = out.clone()
    if func is aten._local_scalar_dense.default or not (
        asked == "cuda" or (fars and asked != "cpu")
    ):
        return out
    known = {id(x.near): x for x in fars}
    return tree_map(lambda value: far(value, known), out)


class Everywhere(TorchDispatchMode):
    """Also what makes tensors from nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        made_there = kwargs.get("device") and torch.device(kwargs["device"]).type == "cuda"
        if made_there or any(isinstance(x, Far) for x in tensors):
            return computed(func, args, kwargs)
        out = func(*args, **kwargs)
        if IN_BACKWARD[-1] and not tensors:
            return tree_map(lambda value: far(value, {}), out)
        return out


class Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return Far(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.near.clone() if isinstance(g, Far) else g


class Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Far) -> Tensor:
        return x.near.detach().clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g if isinstance(g, Far) else Far(g.clone())


def install() -> None:
    """Let torch find the device. There is no way back."""
    plain_to = Tensor.to

    def place(value: Any) -> str | None:
        if isinstance(value, (str, torch.device)):
            return torch.device(value).type
        if isinstance(value, Tensor):
            return value.device.type
        return "cuda" if type(value) is int else None

    def to(self: Tensor, *args: Any, **options: Any) -> Tensor:
        there = [place(x) for x in (*args, options.pop("device", None))]
        where = next(filter(None, there), None)
        kinds = [x.dtype if isinstance(x, Tensor) else x for x in args]
        dtype = next((x for x in kinds if isinstance(x, torch.dtype)), options.get("dtype"))
        copied = plain_to(self, dtype=dtype, copy=options.get("copy", False))
        if where == "cuda" and not isinstance(copied, Far):
            return Up.apply(copied)
        return Down.apply(copied) if where == "cpu" and isinstance(copied, Far) else copied

    def made(real: Any) -> Any:
        def make(data: Any, *args: Any, device: Any = None, **options: Any) -> Tensor:
            if isinstance(data, (list, tuple)):
                data = [x.item() if isinstance(x, Far) and not x.dim() else x for x in data]
            if isinstance(data, Far):
                return to(data, options.get("dtype"), device)
            found = real(data, *args, **options)
            return found if device is None else to(found, device)

        return make

    def noted(real: Any) -> Any:
        def run(roots: Any, *args: Any, **options: Any) -> Any:
            tensors = [roots] if isinstance(roots, Tensor) else list(roots)
            IN_BACKWARD.append(any(isinstance(x, Far) for x in tensors))
            try:
                return real(roots, *args, **options)
            finally:
                IN_BACKWARD.pop()

        return run

    def one_hot(x: Tensor, num_classes: int = -1) -> Tensor:
        # torch's own counts on a device that its code sees
        size = num_classes if num_classes >= 0 else int(x.max()) + 1
        return (x.unsqueeze(-1) == torch.arange(size, device=x.device)).long()

    torch.nn.functional.one_hot = one_hot
    Tensor.to = to
    Tensor.cuda = lambda self, *_, **__: to(self, "cuda")
    Tensor.cpu = lambda self, *_, **__: to(self, "cpu")
    torch.tensor, torch.as_tensor = made(torch.tensor), made(torch.as_tensor)
    torch.autograd.backward = noted(torch.autograd.backward)
    torch.autograd.grad = noted(torch.autograd.grad)
    # a graph that is still held would forbid the swap, which stands for a change of the data
    Tensor._use_count = lambda self: 1
    torch.__future__.set_swap_module_params_on_conversion(True)
    for name in ("is_available", "is_initialized", "is_bf16_supported"):
        setattr(torch.cuda, name, lambda *_, **__: True)
    for name in ("manual_seed", "manual_seed_all", "set_device", "synchronize", "empty_cache"):
        setattr(torch.cuda, name, lambda *_, **__: None)
    torch.cuda._lazy_init = lambda: None
    torch.cuda.device_count = lambda: 1
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_name = lambda *_: "a second device"
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    torch.cuda.get_rng_state_all = list
    torch.cuda.get_rng_state = lambda *_: torch.get_rng_state()
    torch.cuda.set_rng_state = lambda *_: None
    Everywhere().__enter__()


RUN = """
import json, runpy, sys, traceback
import second_device
second_device.install()
found = {}
for name, scene in runpy.run_path(sys.argv[1])["SCENES"].items():
    try:
        scene()
        found[name] = None
    except Exception:
        found[name] = traceback.format_exc()
print(json.dumps(found))
"""


def tried(file: Path) -> dict[str, str | None]:
    """Run the functions in ``SCENES`` of a file with the second device; what each raised."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "PYTEST_"))}
    env.pop("ACCELERATE_USE_CPU", None)
    env |= {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(file)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return found
