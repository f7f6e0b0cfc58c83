"""BaseOf: the base answers as if there were no adapters, and the student is left as it was."""

from __future__ import annotations

import copy
import doctest
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_lib import CE, KD, BaseOf, Cache, Ensemble, Match, Teacher, capture, distill
from distill_lib.teachers import adapters, fingerprint


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """PEFT and what it imports announce deprecations, and what random adapters are good for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def peft() -> Any:
    return pytest.importorskip("peft", reason="PEFT is not installed: pip install peft")


class Net(nn.Module):
    """What a model has besides weights that are multiplied: dropout, two kinds of norms, words."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.first = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8) if norm else nn.LayerNorm(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        seen = self.words(inputs).mean(1)
        return self.head(self.drop(self.norm(self.first(seen).relu())))


def batches(n: int = 3) -> list[dict[str, Tensor]]:
    return [
        {"inputs": torch.randint(11, (6, 4)), "labels": torch.randint(3, (6,))} for _ in range(n)
    ]


def adapted(peft: Any, config: Any, net: nn.Module | None = None) -> tuple[Any, nn.Module]:
    """A student whose adapters say something, and the base as it was before."""
    base = Net() if net is None else net
    before = copy.deepcopy(base).eval()
    student = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if parameter.requires_grad and "base_layer" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return student, before


def lora(peft: Any, **settings: Any) -> Any:
    return peft.LoraConfig(
        **{"target_modules": ["first"], "init_lora_weights": False, "lora_dropout": 0.5, **settings}
    )


KINDS: dict[str, Callable[[Any], Any]] = {
    "lora": lora,
    "lora of words": lambda peft: lora(peft, target_modules=["words", "head"]),
    "dora": lambda peft: lora(peft, use_dora=True),
    "modules_to_save": lambda peft: lora(peft, modules_to_save=["head"]),
    "trainable tokens": lambda peft: lora(peft, trainable_token_indices={"words": [1, 2, 3]}),
    "ia3": lambda peft: peft.IA3Config(target_modules=["first"], feedforward_modules=["first"]),
    "loha": lambda peft: peft.LoHaConfig(target_modules=["first", "head"], init_weights=False),
    "lokr": lambda peft: peft.LoKrConfig(target_modules=["first", "head"], init_weights=False),
    "vera": lambda peft: peft.VeraConfig(target_modules=["first"], init_weights=False),
    "oft": lambda peft: peft.OFTConfig(target_modules=["first"], init_weights=False),
    "boft": lambda peft: peft.BOFTConfig(
        target_modules=["first"], boft_block_size=4, init_weights=False
    ),
    "hra": lambda peft: peft.HRAConfig(target_modules=["first"], r=4, init_weights=False),
    "norms": lambda peft: peft.LNTuningConfig(target_modules=["norm"]),
}


def looks(student: nn.Module) -> list[Any]:
    """Everything that an answer could leave changed."""
    found: list[Any] = [torch.get_rng_state()]
    for module in student.modules():
        hooks = [len(getattr(module, f"_{kind}_hooks")) for kind in ("forward", "forward_pre")]
        switch = getattr(module, "disable_adapters", None), getattr(module, "active_adapter", None)
        found.append((module.training, *hooks, *(str(s) for s in switch), set(module._modules)))
    for parameter in student.parameters():
        found += [parameter.requires_grad, parameter.detach().clone(), parameter.grad]
    return found


def same(found: list[Any], before: list[Any]) -> bool:
    pairs = zip(found, before, strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_says_what_it_said_and_nothing_else_changes(peft: Any, kind: str) -> None:
    student, before = adapted(peft, KINDS[kind](peft))
    student.train()
    for module in list(student.modules())[::3]:
        module.training = False
    (batch,) = batches(1)
    student(batch["inputs"]).sum().backward()
    teacher, was = BaseOf(student), looks(student)
    said = teacher(batch)
    assert same(looks(student), was)
    assert isinstance(said, Tensor) and not said.requires_grad
    assert torch.equal(said, before(batch["inputs"]))
    assert not torch.equal(said, student.eval()(batch["inputs"]))
    assert teacher.fingerprint() == fingerprint(before)


def test_a_prompt_that_is_learned_is_left_out(peft: Any) -> None:
    bert, tokens = tiny_bert()
    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    student, before = adapted(peft, config, bert)
    was = set(student.__dict__)
    said = BaseOf(student)(tokens)["logits"]
    assert torch.equal(said, before(**tokens).logits)
    assert set(student.__dict__) == was
    assert not torch.equal(said, student.eval()(**tokens).logits)


def test_the_adapters_of_transformers(peft: Any) -> None:
    """Its own enable_adapters() would leave modules_to_save off."""
    bert, tokens = tiny_bert()
    before = copy.deepcopy(bert).eval()
    config = lora(peft, target_modules=["query", "value"], modules_to_save=["classifier"])
    bert.add_adapter(config, "one")
    with torch.no_grad():
        bert.classifier.modules_to_save["one"].weight.add_(1.0)
    student = bert.train()
    was = looks(student)
    said = BaseOf(student)(tokens)["logits"]
    assert same(looks(student), was)
    assert torch.equal(said, before(**tokens).logits)


def tiny_bert() -> tuple[Any, dict[str, Tensor]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    ids = torch.randint(1, 30, (3, 5))
    model = transformers.BertForSequenceClassification(config)
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_several_adapters_are_all_off_and_the_active_one_stays_active(peft: Any) -> None:
    student, before = adapted(peft, lora(peft))
    student.add_adapter("second", lora(peft, target_modules=["first", "head"]))
    student.set_adapter("second")
    frozen = student.base_model.model.first.lora_B["second"].weight.requires_grad_(False)
    (batch,) = batches(1)
    said = BaseOf(student)(batch)
    assert torch.equal(torch.as_tensor(said), before(batch["inputs"]))
    assert student.active_adapter == "second"
    assert not frozen.requires_grad  # what the user froze


def test_what_was_off_stays_off(peft: Any) -> None:
    student, before = adapted(peft, lora(peft, target_modules=["first", "head"]))
    student.base_model.model.first.enable_adapters(False)
    (batch,) = batches(1)
    assert torch.equal(torch.as_tensor(BaseOf(student)(batch)), before(batch["inputs"]))
    assert student.base_model.model.first.disable_adapters
    assert not student.base_model.model.head.disable_adapters


def test_an_error_leaves_the_student_as_it_was(peft: Any) -> None:
    student, _ = adapted(peft, lora(peft))
    student.train()
    was = looks(student)
    with pytest.raises(IndexError):
        BaseOf(student)({"inputs": torch.tensor([[99]])})
    assert same(looks(student), was)


def test_noise_in_the_base_does_not_move_the_students_generator(peft: Any) -> None:
    class Noisy(Net):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs) + torch.randn(())

    student, _ = adapted(peft, lora(peft), Noisy())
    (batch,) = batches(1)
    state = torch.get_rng_state()
    BaseOf(student)(batch)
    assert torch.equal(torch.get_rng_state(), state)


# ---- in training ----


def test_training_is_that_with_a_copy_of_the_base_step_by_step(peft: Any) -> None:
    """Bit for bit, with dropout in the student and layers of both read."""
    objective = CE() + KD(temperature=2) + Match("base_model.model.norm")
    data = batches()
    torch.manual_seed(1)
    first, _ = adapted(peft, lora(peft, modules_to_save=["head"]))
    second, third = copy.deepcopy(first), copy.deepcopy(first)
    histories = []
    for student, teacher in (
        (first, BaseOf(first)),
        (second, Unadapted(third)),
    ):
        torch.manual_seed(2)
        histories.append(distill(student, teacher, data, objective, epochs=3, lr=0.05))
    assert histories[0]["loss"] == histories[1]["loss"]
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not any(len(module._forward_hooks) for module in first.modules())


class Unadapted(Teacher):
    """A frozen copy with the adapters off, by PEFT's own switch."""

    def __call__(self, batch: Any) -> Any:
        model: Any = self.model
        inner = model.model if hasattr(model, "layers") else model
        with inner.disable_adapter():
            return super().__call__(batch)


def test_the_trainer_takes_it(peft: Any, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import TrainingArguments

    from distill_lib.integrations.transformers import DistillationTrainer

    bert, tokens = tiny_bert()
    student, before = adapted(peft, lora(peft, target_modules=["query"]), bert)
    data = [{k: v[i] for k, v in tokens.items()} for i in range(3)]
    settings = TrainingArguments(
        str(tmp_path), report_to=[], max_steps=2, use_cpu=True, disable_tqdm=True
    )
    teacher = BaseOf(student)
    DistillationTrainer(
        model=student, args=settings, train_dataset=data, teacher=teacher, objective=KD()
    ).train()
    assert teacher.fingerprint() == fingerprint(before)


def test_a_cache_of_the_bases_own_answers_fits(peft: Any, tmp_path: Path) -> None:
    student, before = adapted(peft, lora(peft))
    (whole,) = batches(1)
    items = [{k: v[i] for k, v in whole.items()} for i in range(6)]
    cache = Cache.build(tmp_path / "base.cache", before, items)
    again = Cache.build(tmp_path / "off.cache", BaseOf(student), items)
    assert cache.fingerprint() == again.fingerprint()
    batch = {**whole, "index": torch.arange(6)}
    torch.testing.assert_close(again(batch)["logits"], cache(batch)["logits"])


def test_it_may_sit_in_a_committee(peft: Any) -> None:
    student, before = adapted(peft, lora(peft))
    both = Ensemble([BaseOf(student), Net()], space="logit", weights=[1.0, 0.0])
    (batch,) = batches(1)
    torch.testing.assert_close(both(batch)["logits"], before(batch["inputs"]))
    distill(student, both, batches(), KD(), epochs=1)


def test_a_captured_or_compiled_student_is_the_same_student(peft: Any) -> None:
    student, before = adapted(peft, lora(peft))
    (batch,) = batches(1)
    for view in (
        capture(student, "base_model.model.norm"),
        torch.compile(student, backend="eager"),
    ):
        assert torch.equal(torch.as_tensor(BaseOf(view)(batch)), before(batch["inputs"]))


# ---- refused ----


@pytest.mark.parametrize("who", ["a network", "unloaded", "taken off"])
def test_without_adapters_there_is_nothing_to_switch(peft: Any, who: str) -> None:
    student, _ = adapted(peft, lora(peft))
    model = {"a network": Net, "unloaded": student.unload, "taken off": student.merge_and_unload}
    with pytest.raises(ValueError, match=r"no adapters to switch off.*copy\.deepcopy"):
        BaseOf(model[who]())


def test_what_is_no_model_is_refused(peft: Any) -> None:
    for wrong in (None, "bert", torch.zeros(2), 4):
        with pytest.raises(TypeError, match=r"expected an nn\.Module"):
            BaseOf(wrong)  # type: ignore[arg-type]


def test_merged_adapters_are_refused_before_and_after(peft: Any) -> None:
    student, before = adapted(peft, lora(peft))
    teacher = BaseOf(student)
    student.merge_adapter()
    with pytest.raises(ValueError, match=r"\['default'\].*merged.*unmerge_adapter\(\)"):
        BaseOf(student)
    with pytest.raises(ValueError, match=r"merged.*unmerge_adapter\(\)"):
        teacher(batches(1)[0])
    student.unmerge_adapter()
    (batch,) = batches(1)
    said = torch.as_tensor(teacher(batch))
    torch.testing.assert_close(said, before(batch["inputs"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("begun", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_that_was_taken_out_of_the_base_is_refused(peft: Any, begun: str) -> None:
    student, _ = adapted(peft, lora(peft, init_lora_weights=begun))
    with pytest.raises(ValueError, match=f"'default'.*{begun}.*changed the base"):
        BaseOf(student)


@pytest.mark.parametrize("kind", ["bias", "norm", "unfrozen", "batch norm"])
def test_a_base_that_learns_along_is_refused_by_its_names(peft: Any, kind: str) -> None:
    config = lora(peft, bias="all" if kind == "bias" else "none")
    student, _ = adapted(peft, config, Net(norm=kind == "batch norm"))
    if kind == "norm":
        student.base_model.model.norm.requires_grad_(True)
    if kind == "unfrozen":
        student.base_model.model.words.weight.requires_grad_(True)
    named = {"bias": "bias", "norm": "norm.weight", "unfrozen": "words.weight"}
    with pytest.raises(ValueError, match=f"the teacher holds.*{named.get(kind, 'running_mean')}"):
        distill(student, BaseOf(student), batches(), KD(), epochs=1)


def test_a_fixed_batch_normalization_is_no_obstacle(peft: Any) -> None:
    student, before = adapted(peft, lora(peft), Net(norm=True))
    student.base_model.model.norm.requires_grad_(False).eval()
    distill(student, BaseOf(student), batches(), KD(), epochs=1)
    assert BaseOf(student).fingerprint() == fingerprint(before)


def test_the_student_itself_is_refused_with_its_name(peft: Any) -> None:
    student, _ = adapted(peft, lora(peft))
    with pytest.raises(ValueError, match=r"base below an adapter BaseOf\(student\)"):
        distill(student, student, batches(), KD(), epochs=1)


def test_the_example_runs(peft: Any) -> None:
    result = doctest.testmod(adapters)
    assert result.attempted > 0
    assert result.failed == 0


def test_moving_it_moves_nothing(peft: Any) -> None:
    student, _ = adapted(peft, lora(peft))
    teacher = BaseOf(student)
    assert teacher.to("meta") is teacher
    assert next(student.parameters()).device.type == "cpu"
