"""A vision transformer in Flax that answers as the one of 🤗 Transformers does."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib.arguments import checked, told
from distill_lib.integrations.jax.writes import named
from distill_lib.losses._common import check_number

__all__ = ["ViT", "read_vit"]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_new": lambda x: nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
}
PATCHES = "embeddings.patch_embeddings.projection"
# ours: theirs in files, and in models before version 5 of Transformers
FILES = {
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "out": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}
# ours: theirs in models since then
MODELS = {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "out": "attention.o_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
UNUSED = ("pooler.", "embeddings.mask_token")


class Block(nn.Module):
    """Attention, then two dense layers, each after a normalization and beside a shortcut."""

    heads: int
    mlp: int
    epsilon: float
    activation: str
    bias: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """[B, N, D] to [B, N, D]."""
        batch, tokens, width = x.shape

        def split(name: str, seen: Any) -> Any:
            many = nn.Dense(width, use_bias=self.bias, name=name)(seen)
            return many.reshape(batch, tokens, self.heads, -1).swapaxes(1, 2)

        seen = nn.LayerNorm(epsilon=self.epsilon, name="before")(x)
        query, key, value = (split(name, seen) for name in ("query", "key", "value"))
        scores = query @ key.swapaxes(-1, -2) / jnp.sqrt(width // self.heads)
        mixed = (jax.nn.softmax(scores) @ value).swapaxes(1, 2).reshape(x.shape)
        x = x + nn.Dense(width, name="out")(mixed)
        seen = nn.LayerNorm(epsilon=self.epsilon, name="after")(x)
        hidden = ACTIVATIONS[self.activation](nn.Dense(self.mlp, name="up")(seen))
        return x + nn.Dense(width, name="down")(hidden)


class ViT(nn.Module):
    """Images [B, H, W, C], channels *last*, to tokens [B, 1 + patches, D]; the first is the CLS.

    It is the encoder alone, without dropout, pooler or classifier. :func:`read_vit` makes it.

    Args:
        image: Height and width in pixels.
        patch: Of a patch.
        width: D.
        layers: Number of blocks.
        heads: Of attention, in each.
        mlp: Units between the two dense layers of a block.
        epsilon: Of the normalizations.
        activation: Its name in a configuration of Transformers.
        bias: Whether queries, keys and values have one.

    Raises:
        TypeError: when called: no array.
        ValueError: sizes that are no whole numbers or do not divide, an activation that is not
            known; when called: images of another size.

    Reference:
        Dosovitskiy et al., *An image is worth 16x16 words*, 2021.
    """

    image: tuple[int, int]
    patch: tuple[int, int]
    width: int
    layers: int
    heads: int
    mlp: int
    epsilon: float = 1e-12
    activation: str = "gelu"
    bias: bool = True

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "mlp"):
            _check_count(name, getattr(self, name))
        check_number("epsilon", self.epsilon, "a number in [0, 1)", lambda number: 0 <= number < 1)
        self.image, self.patch = _pair(self.image), _pair(self.patch)
        if any(size % side for size, side in zip(self.image, self.patch, strict=True)):
            raise ValueError(f"patches of {self.patch} do not divide images of {self.image}")
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not share {self.width} units evenly")
        if not isinstance(self.activation, str) or self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"the activation {told(self.activation)} is not one of {known}")
        if not isinstance(self.bias, bool):
            raise TypeError(f"bias is True or False, got {told(self.bias)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Any) -> Any:
        """The tokens."""
        if not isinstance(images, (jax.Array, np.ndarray)):
            raise TypeError(f"expected images as an array, got {told(images)}")
        if images.ndim != 4 or images.shape[1:3] != tuple(self.image):
            raise ValueError(
                f"expected images [B, {self.image[0]}, {self.image[1]}, C], channels last, got "
                f"{list(images.shape)}; for another size read_vit(…, image_size=…)"
            )
        x = nn.Conv(self.width, self.patch, self.patch, "VALID", name="patches")(images)
        x = x.reshape(len(x), -1, self.width)
        first = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, self.width)), x], 1)
        x = x + self.param("positions", nn.initializers.zeros, (1, *x.shape[1:]))
        for number in range(self.layers):
            block = Block(self.heads, self.mlp, self.epsilon, self.activation, self.bias)
            x = block.copy(name=f"block{number}")(x)
        return nn.LayerNorm(epsilon=self.epsilon, name="norm")(x)


@checked
def read_vit(
    source: Any, config: Any = None, *, image_size: int | tuple[int, int] | None = None
) -> tuple[ViT, dict[str, Any]]:
    """A vision transformer of 🤗 Transformers as a module of Flax and its weights.

    Both naming schemes are read: that of files and of models before version 5 of Transformers,
    ``encoder.layer.0.attention.attention.query``, and that of models since then,
    ``layers.0.attention.q_proj``; also below a prefix, as in a classifier, whose head is left out.
    For another image size the table of positions is interpolated, bicubically, as Transformers
    does.

    Args:
        source: A ``ViTModel`` or a model that holds one, or its weights by name: tensors or arrays.
        config: For weights by name: the configuration, or the mapping that ``config.json`` holds.
        image_size: In pixels, one number or height and width; by default the one it was trained
            with.

    Returns:
        The module, and ``{"params": …}``, arrays of NumPy in float32. Nothing can take these away,
        while arrays of JAX are deleted by a program that donates them.

    Raises:
        TypeError: no model and no weights.
        ValueError: another architecture; a weight that is missing, left over, or of another shape;
            an activation that is not known; an image size that is no multiple of the patch.

    Reference:
        Dosovitskiy et al., *An image is worth 16x16 words*, 2021.

    Example:
        >>> from transformers import ViTConfig, ViTModel
        >>> small = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=1)
        >>> torch_vit = ViTModel(ViTConfig(**small, num_attention_heads=2, patch_size=14))
        >>> module, variables = read_vit(torch_vit, image_size=70)
        >>> module.apply(variables, np.zeros((2, 70, 70, 3), np.float32)).shape
        (2, 26, 8)
    """
    weights, said = _weights(source), _settings(source, config)
    image, patch = _pair(said["image_size"]), _pair(said["patch_size"])
    wanted = image if image_size is None else _pair(image_size)
    if any(size % side or size < side for size, side in zip(wanted, patch, strict=True)):
        raise ValueError(
            f"images of {wanted[0]}×{wanted[1]} pixels are not cut evenly into patches of "
            f"{patch[0]}×{patch[1]}: the rest would never be seen. Take multiples, and resize or "
            "crop the images"
        )
    module = ViT(
        image=wanted,
        patch=patch,
        width=said["hidden_size"],
        layers=said["num_hidden_layers"],
        heads=said["num_attention_heads"],
        mlp=said["intermediate_size"],
        epsilon=float(said["layer_norm_eps"]),
        activation=said["hidden_act"],
        bias=bool(said["qkv_bias"]),
    )
    params = _converted(weights, module)
    grids = [(h // patch[0], w // patch[1]) for h, w in (image, wanted)]
    params["positions"] = _interpolated(params["positions"], *grids)
    _check_shapes(module, params, channels=params["patches"]["kernel"].shape[2])
    return module, {"params": params}


def _weights(source: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Weights by name, without what is before the names of the encoder."""
    model = hasattr(source, "state_dict") and not isinstance(source, type)
    state = source.state_dict() if model else source
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise TypeError(f"expected a ViTModel or its weights by name, got {told(source)}")
    ends = [key for key in state if key.endswith(f"{PATCHES}.weight")]
    if len(ends) != 1:
        raise ValueError(
            f"expected the weights of one vision transformer of Transformers, with one "
            f"'{PATCHES}.weight', got {len(ends)} among {', '.join(list(state)[:6]) or 'none'}"
        )
    start = ends[0].removesuffix(f"{PATCHES}.weight")
    inside = {key.removeprefix(start): v for key, v in state.items() if key.startswith(start)}
    heads = ("classifier.", "decoder.") if not start else ()
    return {k: _as_array(v) for k, v in inside.items() if not k.startswith((*UNUSED, *heads))}


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    found = value.detach().cpu().float().numpy() if isinstance(value, Tensor) else value
    return np.array(found, np.float32)


DEFAULTS = {"layer_norm_eps": 1e-12, "hidden_act": "gelu", "qkv_bias": True, "model_type": "vit"}
NUMBERS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def _settings(source: Any, config: Any) -> dict[str, Any]:
    """What the configuration says, once it is known to be one of a ViT."""
    config = getattr(source, "config", None) if config is None else config
    if config is None:
        raise ValueError("weights by name do not say how many heads there are; give config=, too")
    mapping = isinstance(config, Mapping)
    read: Any = config.get if mapping else functools.partial(getattr, config)
    said = {k: read(k, DEFAULTS.get(k)) for k in (*NUMBERS, "image_size", "patch_size", *DEFAULTS)}
    for key in NUMBERS:
        _check_count(f"the configuration's {key}", said[key])
    if said["model_type"] != "vit":
        raise ValueError(f"expected a model of type 'vit', got {said['model_type']!r}")
    heads, width = said["num_attention_heads"], said["hidden_size"]
    if read("head_dim", None) not in (None, width // heads):
        raise ValueError(f"{heads} heads do not share {width} units evenly")
    return said


def _check_count(name: str, value: Any) -> None:
    if type(value) is not int or not 0 < value < 2**20:
        raise ValueError(f"{name} is a number above 0, got {told(value)}")


def _pair(size: Any) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else size
    whole = isinstance(pair, (tuple, list)) and all(type(n) is int and 0 < n < 2**16 for n in pair)
    if not whole or len(pair) != 2:
        raise ValueError(f"a size is a number of pixels or two (height, width), got {size!r}")
    return pair[0], pair[1]


def _converted(weights: dict[str, np.ndarray[Any, Any]], module: ViT) -> dict[str, Any]:
    """The weights under the names and in the layout of Flax."""
    left = dict(weights)

    def take(name: str) -> np.ndarray[Any, Any]:
        if name not in left:
            raise ValueError(f"the weights lack {name!r}; they have {', '.join(list(left)[:8])}, …")
        return left.pop(name)

    def dense(name: str, bias: bool = True) -> dict[str, Any]:
        kernel = {"kernel": take(f"{name}.weight").T}
        return {**kernel, "bias": take(f"{name}.bias")} if bias else kernel

    def norm(name: str) -> dict[str, Any]:
        return {"scale": take(f"{name}.weight"), "bias": take(f"{name}.bias")}

    in_file = any(key.startswith("encoder.layer.") for key in left)
    start, names = ("encoder.layer", FILES) if in_file else ("layers", MODELS)
    params: dict[str, Any] = {
        "cls": take("embeddings.cls_token"),
        "positions": take("embeddings.position_embeddings"),
        "patches": {
            "kernel": take(f"{PATCHES}.weight").transpose(2, 3, 1, 0),  # O I H W to H W I O
            "bias": take(f"{PATCHES}.bias"),
        },
        "norm": norm("layernorm"),
    }
    for number in range(module.layers):
        at = f"{start}.{number}"
        parts = {
            mine: dense(f"{at}.{their}", module.bias or mine not in ("query", "key", "value"))
            for mine, their in names.items()
        }
        norms = {mine: norm(f"{at}.layernorm_{mine}") for mine in ("before", "after")}
        params[f"block{number}"] = {**parts, **norms}
    if left:
        raise ValueError(
            f"{len(left)} weights have no place in a plain vision transformer of "
            f"{module.layers} layers: {', '.join(list(left)[:6])}"
        )
    return params


def _interpolated(
    table: np.ndarray[Any, Any], old: tuple[int, int], new: tuple[int, int]
) -> np.ndarray[Any, Any]:
    """Positions [1, 1 + h·w, D] for another grid; the one of the CLS token stays."""
    if table.ndim != 3 or table.shape[1] != 1 + old[0] * old[1]:
        raise ValueError(
            f"the table of positions has shape {list(table.shape)}, and the configuration's grid "
            f"of {old[0]}×{old[1]} patches needs {1 + old[0] * old[1]} rows"
        )
    if old == new:
        return table
    grid = torch.from_numpy(table[:, 1:]).reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode="bicubic", align_corners=False)
    rows = grid.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1).numpy()
    return np.concatenate([table[:, :1], rows], 1)


def _check_shapes(module: ViT, params: dict[str, Any], channels: int) -> None:
    """Every array has the shape that the module will ask for."""
    shape, key = (1, *module.image, channels), jax.random.key(0)
    asked = named(jax.eval_shape(lambda: module.init(key, jnp.zeros(shape)))["params"])
    for name, array in named(params).items():
        if asked[name].shape != array.shape:
            raise ValueError(
                f"{name} has shape {list(array.shape)}, and the configuration asks for "
                f"{list(asked[name].shape)}"
            )
