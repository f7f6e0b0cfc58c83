"""Terms on a part of an answer and on hidden states: the same training as on logits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_lib import CE, KD, Cache, Teacher, distill, linear, losses
from distill_lib.teachers import TopK
from distill_lib.terms import FusedKD, SparseKD, hidden_and_head

transformers = pytest.importorskip("transformers")
THREE = ("top_ids", "top_log_probs", "rest")
LOSSES: list[tuple[Any, dict[str, Any]]] = [
    (losses.kl, {}),
    (losses.reverse_kl, {}),
    (losses.jsd, {"beta": 0.3}),
]


def llama(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=width, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32,
        initializer_range=0.3,
    )  # fmt: skip
    made: nn.Module = transformers.LlamaForCausalLM(config)
    return made


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return llama(24, 1)


class Texts:
    """Texts of several lengths, padded on the right."""

    def __init__(self, count: int = 12) -> None:
        draw = torch.Generator().manual_seed(0)
        self.ids = torch.randint(50, (count, 7), generator=draw)
        self.mask = torch.arange(7) < torch.randint(3, 8, (count, 1), generator=draw)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        labels = self.ids[i].masked_fill(~self.mask[i], -100)
        return {"input_ids": self.ids[i], "attention_mask": self.mask[i].long(), "labels": labels,
                "index": i}  # fmt: skip


def trained(teacher: Any, objective: Any, **settings: Any) -> list[Tensor]:
    student = llama(16, 0)
    batches = torch.utils.data.DataLoader(Texts(), batch_size=4)  # type: ignore[arg-type]
    # plain steps: Adam's make much of what is nearly 0
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    distill(student, teacher, batches, objective, optimizer=optimizer, epochs=2, **settings)
    return [p.detach() for p in student.parameters()]


# ---- fused ----


@pytest.mark.parametrize("temperature", [1.0, linear(4, 1)], ids=str)
@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_fused_trains_what_kd_trains(
    teacher: nn.Module, loss: Any, options: dict[str, Any], temperature: Any
) -> None:
    want = trained(teacher, KD(loss, temperature, **options))
    got = trained(
        Teacher(teacher, forward=hidden_and_head),
        FusedKD(loss, temperature, chunk=3, **options),
        forward=hidden_and_head,
    )
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_targets_may_be_kept_as_hidden_states(teacher: nn.Module, tmp_path: Path) -> None:
    asked = Teacher(teacher, forward=hidden_and_head)
    cache = Cache.build(tmp_path / "h", asked, Texts(), "output_hidden", block=5)
    head = teacher.get_output_embeddings().weight  # type: ignore[operator]
    term = FusedKD(teacher_head=head)
    assert not list(term.parameters()) and not term.state_dict()
    got = trained(cache, term, forward=hidden_and_head)
    torch.testing.assert_close(got, trained(teacher, KD()), rtol=1e-4, atol=1e-5)


def test_padding_is_not_computed(teacher: nn.Module) -> None:
    student, batch = llama(16, 0), torch.utils.data.default_collate([*Texts()])
    said, taught = hidden_and_head(student, batch), hidden_and_head(teacher, batch)
    want, _ = FusedKD()(said, taught, batch)
    broken = taught["output_hidden"].masked_fill(batch["attention_mask"][..., None] == 0, torch.nan)
    got, _ = FusedKD()(said, {**taught, "output_hidden": broken}, batch)
    assert torch.equal(got, want) and got.isfinite()
    whole = KD()(student(batch["input_ids"], batch["attention_mask"]).logits,
                 teacher(batch["input_ids"], batch["attention_mask"]).logits, batch)[0]  # fmt: skip
    torch.testing.assert_close(got, whole)


def test_a_mask_that_fits_nothing_is_refused(teacher: nn.Module) -> None:
    batch = torch.utils.data.default_collate([*Texts()])
    said = hidden_and_head(teacher, batch)
    with pytest.raises(ValueError, match="attention_mask"):
        FusedKD()(said, said, {**batch, "attention_mask": torch.ones(12, 9)})


def test_the_states_of_models_that_only_multiply() -> None:
    ids = torch.randint(50, (2, 7))
    gpt = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_embd=8, n_head=1, n_layer=1, vocab_size=50, bos_token_id=0, eos_token_id=0
        )
    )
    gpt.train()
    said = hidden_and_head(gpt, {"input_ids": ids, "labels": ids})
    assert gpt.training and said["output_hidden"].shape == (2, 7, 8)
    gpt.eval()
    said = hidden_and_head(gpt, {"input_ids": ids})
    logits = said["output_hidden"] @ said["output_matrix"].T + said["output_bias"]
    torch.testing.assert_close(logits, gpt(ids).logits)


def test_a_model_that_caps_its_logits_is_refused() -> None:
    gemma = transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(
            vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, head_dim=8,
            num_attention_heads=2, num_key_value_heads=2, final_logit_softcapping=0.5,
        )
    )  # fmt: skip
    for _ in range(2):
        with pytest.raises(ValueError, match="more than multiply"):
            hidden_and_head(gemma, {"input_ids": torch.randint(50, (2, 7))})


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tells no output matrix.*output_hidden"):
        hidden_and_head(nn.Linear(3, 4), {"inputs": torch.zeros(2, 3)})


def test_other_vocabularies_are_refused(teacher: nn.Module) -> None:
    said = hidden_and_head(teacher, {"input_ids": torch.randint(50, (2, 7))})
    more = {k: torch.cat([v, v[:4]]) if k != "output_hidden" else v for k, v in said.items()}
    with pytest.raises(ValueError, match="50 and 54 classes"):
        FusedKD()(said, more)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: FusedKD(losses.tvd), "reverse_kl and losses.jsd"),
        (lambda: FusedKD(losses.jsd, beta=0.0), "0 for every student"),
        (lambda: FusedKD(temperature=0.0), "temperature"),
        (lambda: FusedKD(teacher_bias=torch.zeros(3)), "give both"),
        (lambda: FusedKD(teacher_head=torch.zeros(3)), "a matrix"),
        (lambda: SparseKD(losses.tvd, tail=False), "tail=False"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_once(make: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        make()


# ---- sparse ----


def test_sparse_targets_of_nearly_all_classes_train_what_kd_trains(teacher: nn.Module) -> None:
    got = trained(TopK(teacher, 49), SparseKD())
    torch.testing.assert_close(got, trained(teacher, KD()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [losses.kl, losses.reverse_kl])
def test_a_cache_of_sparse_targets_is_the_teacher(
    teacher: nn.Module, tmp_path: Path, loss: Any
) -> None:
    cache = Cache.build(tmp_path / "sparse", TopK(teacher, 5), Texts(), THREE, block=5)
    objective = CE() + SparseKD(loss)
    want = trained(TopK(teacher, 5), copy.deepcopy(objective))
    torch.testing.assert_close(trained(cache, objective), want)


def test_an_interface_without_a_tail_is_enough(teacher: nn.Module) -> None:
    batch = torch.utils.data.default_collate([*Texts()])
    with torch.no_grad():
        z, v = (m(batch["input_ids"]).logits for m in (llama(16, 0), teacher))
    ids, log_p, rest = losses.top_k(v, 5)
    said = {"top_ids": ids, "top_log_probs": log_p}
    got, _ = SparseKD(rest=False)(z, said, batch)
    torch.testing.assert_close(got, SparseKD()(z, {**said, "rest": rest}, batch)[0])
    cut, _ = SparseKD(tail=False)(z, said, batch)
    assert cut != got


def test_padding_does_not_count(teacher: nn.Module) -> None:
    batch = torch.utils.data.default_collate([*Texts()])
    z, v = torch.randn(12, 7, 50), torch.randn(12, 7, 50)
    said = TopK(nn.Identity(), 5)({"inputs": v})
    kept = batch["attention_mask"].bool()
    got, _ = SparseKD()(z, said, batch)
    want, _ = SparseKD()(z[kept], {k: x[kept] for k, x in said.items()})
    torch.testing.assert_close(got, want)
    with pytest.raises(ValueError, match="attention_mask"):
        SparseKD()(z, said, {"attention_mask": torch.ones(12, 9)})


def test_how_they_are_written() -> None:
    objective = (
        0.5 * FusedKD(losses.jsd, linear(8, 1), beta=0.1) + SparseKD() + SparseKD(tail=False)
    )
    assert str(objective) == "0.5·fused jsd(T=8→1, beta=0.1) + sparse kl + truncated kl"
    assert r"\mathrm{jsd}(W_t h^t \,\|\, W_s h^s)" in objective._repr_latex_()
