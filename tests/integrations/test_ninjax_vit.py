"""A vision transformer of Transformers and its twin in Flax give the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jax_helpers import jax, jnp
from safetensors.torch import load_file
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from distill_lib.integrations.ninjax import ViT, read_vit


def config(**changes: Any) -> ViTConfig:
    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    image = {"intermediate_size": 40, "image_size": 28, "patch_size": 14}
    return ViTConfig(**{**size, **image, **changes})


def vit(kind: Any = ViTModel, **changes: Any) -> Any:
    """A random one whose every weight differs from every other, biases and scales too."""
    model = kind(config(**changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def images(size: int = 28, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, size, size)


@torch.no_grad()
def distance(model: Any, read: tuple[ViT, Any], x: torch.Tensor, **settings: Any) -> float:
    inner = model.vit if hasattr(model, "vit") else model
    want = inner(x, **settings).last_hidden_state.numpy()
    module, variables = read
    found = jax.jit(module.apply)(variables, x.permute(0, 2, 3, 1).numpy())
    assert found.shape == want.shape
    return float(np.abs(found - want).max())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qkv_bias": False, "hidden_act": "gelu_pytorch_tanh"},
        {"hidden_act": "relu", "num_channels": 1, "layer_norm_eps": 1e-5},
        {"hidden_act": "silu", "num_attention_heads": 1, "patch_size": 7},
        {"image_size": (28, 42)},
    ],
)
def test_answers_are_those_of_torch(changes: dict[str, Any]) -> None:
    model = vit(**changes)
    x = images(channels=changes.get("num_channels", 3))
    x = torch.randn(2, 3, 28, 42) if "image_size" in changes else x
    assert distance(model, read_vit(model), x) < 1e-5


def test_both_naming_schemes_give_one_tree(tmp_path: Path) -> None:
    model = vit()
    model.save_pretrained(tmp_path)
    file = load_file(tmp_path / "model.safetensors")
    schemes = [
        any(k.startswith(s) for k in names)
        for names in (file, model.state_dict())
        for s in ("encoder.layer.0.attention.attention.query", "layers.0.attention.q_proj")
    ]
    assert schemes == [True, False, False, True], "files keep the old names, models have new ones"
    one, other = read_vit(model)[1], read_vit(file, model.config)[1]
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert distance(model, read_vit(file, model.config.to_dict()), images()) < 1e-5


def test_a_classifier_lends_its_encoder() -> None:
    model = vit(ViTForImageClassification)
    assert distance(model, read_vit(model), images()) < 1e-5
    inner = {k.removeprefix("vit."): v for k, v in model.state_dict().items()}
    inner = {k: v.numpy() for k, v in inner.items()}  # arrays will do, beside the head
    assert distance(model, read_vit(inner, model.config), images()) < 1e-5


@pytest.mark.parametrize(("trained", "size"), [(28, 70), (70, 28), (224, 70)])
def test_positions_of_another_size_are_interpolated_as_transformers_does(
    trained: int, size: int
) -> None:
    """70 is the article's; with patches of 14 it is a grid of 5 × 5."""
    model = vit(image_size=trained)
    module, variables = read_vit(model, image_size=size)
    assert variables["params"]["positions"].shape == (1, 1 + (size // 14) ** 2, 24)
    x = images(size)
    assert distance(model, (module, variables), x, interpolate_pos_encoding=True) < 1e-5


def test_the_articles_model_does_not_fit_its_images() -> None:
    """Patches of 16 and images of 70 pixels: 6 rows and columns would be left over."""
    with pytest.raises(ValueError, match=r"70×70 pixels are not cut evenly into patches of 16×16"):
        read_vit(vit(image_size=224, patch_size=16), image_size=70)
    module, variables = read_vit(vit(image_size=224, patch_size=16))
    with pytest.raises(ValueError, match=r"expected images \[B, 224, 224, C\].*\[1, 70, 70, 3\]"):
        module.apply(variables, np.zeros((1, 70, 70, 3), np.float32))


def test_half_precision_is_read_as_float32() -> None:
    model = vit().half()
    _, variables = read_vit(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(variables))


def test_the_arrays_are_copies() -> None:
    model = vit()
    _, variables = read_vit(model)
    before = variables["params"]["cls"].copy()
    with torch.no_grad():
        model.embeddings.cls_token.add_(1)
    np.testing.assert_array_equal(variables["params"]["cls"], before)


def state() -> dict[str, torch.Tensor]:
    return dict(vit().state_dict())


def test_what_has_no_place_is_refused() -> None:
    scaled = {**state(), "layers.0.layer_scale1.lambda1": torch.ones(24)}  # DINOv2
    with pytest.raises(ValueError, match=r"1 weights have no place .* layers\.0\.layer_scale1"):
        read_vit(scaled, config())
    distilled = {**state(), "embeddings.distillation_token": torch.ones(1, 1, 24)}  # DeiT
    with pytest.raises(ValueError, match=r"no place .* embeddings\.distillation_token"):
        read_vit(distilled, config())
    with pytest.raises(ValueError, match=r"no place in .* of 1 layers: layers\.1\."):
        read_vit(state(), config(num_hidden_layers=1))
    kept = {**state(), "embeddings.mask_token": torch.ones(1, 1, 24)}
    read_vit(kept, config())


def test_what_is_missing_or_of_another_shape_is_named() -> None:
    without = {k: v for k, v in state().items() if k != "layers.1.mlp.fc2.bias"}
    with pytest.raises(ValueError, match=r"the weights lack 'layers\.1\.mlp\.fc2\.bias'"):
        read_vit(without, config())
    with pytest.raises(ValueError, match=r"block0/down/kernel has shape \[40, 24\].* \[50, 24\]"):
        read_vit(state(), config(intermediate_size=50))
    with pytest.raises(ValueError, match=r"positions has shape \[1, 5, 24\].*3×3 patches needs 10"):
        read_vit(state(), config(image_size=42))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "tanh"}, "the activation str 'tanh' is not one of gelu, gelu_new"),
        ({"model_type": "deit"}, "expected a model of type 'vit', got 'deit'"),
        ({"num_attention_heads": 5}, "5 heads do not share 24 units"),
        ({"head_dim": 4}, "3 heads do not share 24 units"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is a number above 0, got int 0"),
        ({"num_hidden_layers": 2**60}, "num_hidden_layers is a number above 0"),
        ({"hidden_size": "24"}, "hidden_size is a number above 0, got str '24'"),
        ({"patch_size": None}, "a size is a number of pixels"),
        ({"image_size": [28, 28, 3]}, "a size is a number of pixels"),
    ],
)
def test_a_configuration_is_checked(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_vit(state(), {**config().to_dict(), **changes})


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a ViTModel or its weights by name, got int 3"):
        read_vit(3)
    with pytest.raises(ValueError, match=r"with one '.*projection\.weight', got 0"):
        read_vit(torch.nn.Linear(2, 2), config())
    with pytest.raises(ValueError, match="do not say how many heads"):
        read_vit(state())
    with pytest.raises(TypeError, match="image_size"):
        read_vit(state(), config(), image_size="70")  # type: ignore[arg-type]


def test_gradients_flow_through_it_too() -> None:
    """Fine-tuning is the other choice; the twin is no dead end."""
    model = vit()
    module, variables = read_vit(model)
    x = images()
    model(x).last_hidden_state.square().sum().backward()

    def loss(variables: Any) -> Any:
        return jnp.square(module.apply(variables, x.permute(0, 2, 3, 1).numpy())).sum()

    grads = jax.jit(jax.grad(loss))(variables)["params"]
    want = model.layers[0].mlp.fc1.weight.grad.T.numpy()
    np.testing.assert_allclose(grads["block0"]["up"]["kernel"], want, rtol=1e-3, atol=1e-3)
