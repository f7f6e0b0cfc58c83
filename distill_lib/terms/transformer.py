"""A transformer taught layer by layer: which layer by which, what of it, and from which start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib import losses
from distill_lib.objective import Objective, Term
from distill_lib.schedules import Schedule

from .answers import KD
from .features import Match
from .projectors import fit_projectors

__all__ = ["fit_projectors", "initialize", "layer_map", "tinybert"]

Layers = str | Sequence[tuple[int, int]]


def layer_map(student: int, teacher: int, how: str = "uniform") -> list[tuple[int, int]]:
    r"""Which layer of the teacher teaches which layer of the student.

    ===========  ============================================================
    uniform      :math:`g(m) = m N / M`, the teacher in equal strides
    top          :math:`g(m) = m + N - M`, its last layers
    bottom       :math:`g(m) = m`, its first layers
    last         the last layer alone, by the last
    ===========  ============================================================

    Args:
        student: :math:`M`, the student's layers.
        teacher: :math:`N`, the teacher's, at least as many.
        how: One of the above.

    Returns:
        Pairs of a student's and a teacher's layer, counted from 1. ``hidden_states/0`` are the
        embeddings, ``hidden_states/m`` what layer m gives, ``attentions/m-1`` its maps.

    Raises:
        ValueError: a student with more layers than the teacher, a uniform map whose stride is not
            whole, or an unknown kind.

    Reference:
        Jiao et al., *TinyBERT*, 2020, section 4.4; ``last`` is Wang et al.'s *MiniLM*, 2020.

    Example:
        >>> layer_map(2, 6), layer_map(2, 6, "top")
        ([(1, 3), (2, 6)], [(1, 5), (2, 6)])
    """
    whole = all(isinstance(n, Integral) and not isinstance(n, bool) for n in (student, teacher))
    if not whole or not 1 <= student <= teacher:
        raise ValueError(
            f"a layer map goes from a student of M ≥ 1 layers to a teacher of at least as many; "
            f"got {student!r} and {teacher!r}"
        )
    student, teacher = int(student), int(teacher)
    if isinstance(how, str) and how == "uniform" and teacher % student:
        near = [m for m in range(1, teacher + 1) if teacher % m == 0]
        raise ValueError(
            f"{teacher} layers cannot be walked in {student} equal strides; students of "
            f"{', '.join(map(str, near))} layers can, or write the pairs: [(1, 2), (2, 5), …]"
        )
    maps: dict[str, Callable[[int], int]] = {
        "uniform": lambda m: m * teacher // student,
        "top": lambda m: m + teacher - student,
        "bottom": lambda m: m,
        "last": lambda m: teacher,
    }
    if not isinstance(how, str) or how not in maps:
        raise ValueError(f"no layer map {how!r}; there are {', '.join(maps)}, or write the pairs")
    first = student if how == "last" else 1
    return [(m, maps[how](m)) for m in range(first, student + 1)]


def tinybert(
    student: nn.Module,
    teacher: nn.Module,
    layers: Layers = "uniform",
    *,
    embedding: Schedule | float = 1.0,
    attention: Schedule | float = 1.0,
    hidden: Schedule | float = 1.0,
    prediction: Schedule | float = 1.0,
    temperature: Schedule | float = 1.0,
    maps: Callable[..., Tensor] = losses.attention_scores,
) -> Objective:
    r"""TinyBERT's objective: embeddings, attention, hidden states, prediction.

    .. math:: L = w_e\, \mathrm{MSE}(E^s W_e, E^t)
        + \sum_m \bigl[ w_h\, \mathrm{MSE}(H^s_m W_h, H^t_{g(m)})
        + w_a\, \mathrm{MSE}(A^s_m, A^t_{g(m)}) \bigr] + w_p\, T^2\, \mathrm{KL}(p_T \,\|\, q_T)

    It is an ordinary sum of terms: print it, add to it, weigh its parts by schedules. One
    projector :math:`W_h` serves all layers, as in the paper.

    Args:
        student: A transformer of 🤗 Transformers.
        teacher: One that reads the same tokens.
        layers: A kind of :func:`layer_map`, or pairs of layers counted from 1.
        embedding: Weight of the embeddings; 0 leaves a part out.
        attention: Weight of the attention maps.
        hidden: Weight of the hidden states.
        prediction: Weight of the teacher's answers.
        temperature: Of the answers.
        maps: The loss on attention maps.

    Raises:
        ValueError: a pair that names no layer, other numbers of heads, or nothing to match.

    Reference:
        Jiao et al., *TinyBERT: distilling BERT for natural language understanding*, 2020.
    """
    mine, theirs = _config(student, "student"), _config(teacher, "teacher")
    pairs = _pairs(layers, mine.num_hidden_layers, theirs.num_hidden_layers)
    heads = (mine.num_attention_heads, theirs.num_attention_heads)
    if attention and heads[0] != heads[1]:
        raise ValueError(
            f"the student has {heads[0]} heads, the teacher {heads[1]}: maps are compared head by "
            "head. Give the student as many (they cost no parameters), or set attention=0 and add "
            'Match("…query", loss=losses.minilm_relation, heads=…)'
        )

    def projector() -> nn.Module | None:
        wide = (mine.hidden_size, theirs.hidden_size)
        return None if wide[0] == wide[1] else nn.Linear(*wide, bias=False)

    shared = projector()
    parts: list[tuple[Schedule | float, Term]] = [
        (embedding, Match("hidden_states/0", project=projector()))
    ]
    for m, g in pairs:
        names = f"hidden_states/{m}", f"hidden_states/{g}"
        parts.append((hidden, Match(*names, project=shared)))
        parts.append((attention, Match(f"attentions/{m - 1}", f"attentions/{g - 1}", loss=maps)))
    parts.append((prediction, KD(temperature=temperature)))
    used = [(weight, term) for weight, term in parts if weight]
    if not used:
        raise ValueError("all weights are 0: there is nothing to match")
    return Objective(used)


@torch.no_grad()
def initialize(student: nn.Module, teacher: nn.Module, layers: Layers = "uniform") -> nn.Module:
    """Begin a student of the teacher's width with the teacher's own layers, in place.

    Embeddings, the mapped layers, and the head where it fits, are copied; of an encoder with a
    decoder the layers of both, each by the map. ALBERT's layers share one set of weights, which is
    copied whatever the map.

    Args:
        student: A transformer of 🤗 Transformers.
        teacher: One of the same family and width.
        layers: A kind of :func:`layer_map`, or pairs of layers counted from 1.

    Returns:
        The student.

    Raises:
        ValueError: another family, widths or vocabularies that differ, pairs that name no layer, or
            layers of other parts, such as ModernBERT's first, which has one norm fewer. The student
            is then as it was.

    Reference:
        Sanh et al., *DistilBERT, a distilled version of BERT*, 2019.
    """
    mine, theirs = _config(student, "student"), _config(teacher, "teacher")
    families = [getattr(config, "model_type", "") for config in (mine, theirs)]
    if families[0] != families[1]:  # whose layers may be alike, and nothing else of them
        raise ValueError(
            f"the student is of the family {families[0]!r} and the teacher of {families[1]!r}, so "
            "embeddings and head have other names. Make the student of the teacher's own class: "
            "type(teacher)(config), where config is a copy of teacher.config with fewer layers"
        )
    for keys in SIZES:
        sizes = [next((getattr(c, k) for k in keys if hasattr(c, k)), None) for c in (mine, theirs)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"weights are copied between equal shapes: {keys[0]} is {sizes[0]} in the "
                f"student and {sizes[1]} in the teacher. A narrower student begins "
                "with its own weights, and can learn from hidden states through a projector"
            )
    words, table = student.get_input_embeddings(), teacher.get_input_embeddings().weight  # type: ignore[operator]
    _check_words(words, table)
    stacks = list(zip(_stacks(student), _stacks(teacher), strict=True))
    couples: list[tuple[nn.Module, nn.Module]] = []
    for here, there in stacks:
        if getattr(mine, "num_hidden_groups", 0):
            _pairs(layers, mine.num_hidden_layers, theirs.num_hidden_layers)
            pairs = [(n, n) for n in range(1, len(here) + 1)]
        else:
            pairs = _pairs(layers, len(here), len(there))
        for m, g in pairs:
            _check_alike(here[m - 1], there[g - 1], (m, g))
            couples.append((here[m - 1], there[g - 1]))
    for layer, other in couples:
        layer.load_state_dict(other.state_dict())
    inside = {id(p) for stack in stacks for blocks in stack for p in blocks.parameters()}
    # with the second names of shared weights, which the student may not share
    named = teacher.named_parameters(remove_duplicate=False)
    source = {n: p for n, p in named if id(p) not in inside}
    for name, parameter in student.named_parameters():
        found = source.get(name)
        if id(parameter) not in inside and found is not None and found.shape == parameter.shape:
            parameter.copy_(found)
        elif found is not None and "position" in name:
            most = min(len(parameter), len(found))
            parameter[:most] = found[:most]
    if hasattr(words, "lookup"):  # an embedding of some of the pieces
        kept = (words.lookup > 1).nonzero()[:, 0]
        words.embedding.weight[words.lookup[kept].long()] = table[kept]
    return student


SIZES = (  # and their other names, DistilBERT's; the last two are ALBERT's
    ("hidden_size",),
    ("intermediate_size", "hidden_dim"),
    ("num_attention_heads",),
    ("embedding_size",),
    ("num_hidden_groups",),
)


def _check_words(words: Any, table: Tensor) -> None:
    """Whether the student's words are the teacher's, or some of them."""
    if hasattr(words, "lookup"):
        most = int((words.lookup > 1).nonzero().max()) + 1
        fits = most <= len(table)
    else:
        most, fits = len(words.weight), len(words.weight) == len(table)
    if not fits:
        raise ValueError(
            f"the student has {most} words and the teacher {len(table)}, so that embeddings would "
            f"stay as they are: make the student with vocab_size={len(table)}, and call "
            "student.resize_token_embeddings afterwards"
        )


def _check_alike(mine: nn.Module, theirs: nn.Module, pair: tuple[int, int]) -> None:
    """Whether a layer of the student has the parts of the teacher's, before either is touched."""
    shapes = [{k: v.shape for k, v in layer.state_dict().items()} for layer in (mine, theirs)]
    odd = sorted(k for k in {**shapes[0], **shapes[1]} if shapes[0].get(k) != shapes[1].get(k))
    if odd:
        sizes = [list(s[odd[0]]) if odd[0] in s else "none" for s in shapes]
        raise ValueError(
            f"layer {pair[0]} of the student and layer {pair[1]} of the teacher are not alike: "
            f"{odd[0]} is {sizes[0]} in the student and {sizes[1]} in the teacher. Write pairs of "
            "layers that are, such as [(1, 1), (2, 6)]: in some families the first differs"
        )


def _stacks(model: nn.Module) -> list[nn.ModuleList]:
    """The layers of a transformer; of one with a decoder, those of both.

    ALBERT has groups of layers that share their weights in place of layers.
    """
    config: Any = _config(model, "model")
    count = getattr(config, "num_hidden_groups", None) or config.num_hidden_layers
    if not getattr(config, "is_encoder_decoder", False) or not hasattr(model, "get_decoder"):
        return [_blocks(model, count)]
    sizes = (getattr(config, f"{name}_layers", None) for name in ("decoder", "num_decoder"))
    parts: Any = model
    return [
        _blocks(parts.get_encoder(), count),
        _blocks(parts.get_decoder(), next(filter(None, sizes), count)),
    ]


def _blocks(model: nn.Module, count: int) -> nn.ModuleList:
    """The list of as many modules as the configuration has layers."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(model).__name__} has no list of {count} layers")


def _config(model: nn.Module, who: str) -> Any:
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "num_hidden_layers"):
        raise ValueError(
            f"the {who} is a {type(model).__name__} without the configuration of a transformer; "
            "for other models write the terms: Match('layer', 'layer', project=…) + KD()"
        )
    return config


def _pairs(layers: Layers, student: int, teacher: int) -> list[tuple[int, int]]:
    if isinstance(layers, str):
        return layer_map(student, teacher, layers)
    pairs = list(layers) if isinstance(layers, Iterable) else [layers]
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or [type(n) for n in pair] != [int, int]:
            raise TypeError(
                f"layers expected pairs of a student's and a teacher's layer, such as [(1, 3), "
                f"(2, 6)], or a kind such as 'uniform', got {pair!r}"
            )
        m, g = pair
        if not (1 <= m <= student and 1 <= g <= teacher):
            raise ValueError(
                f"the pair ({m}, {g}) names no layers: the student has 1 to {student}, the teacher "
                f"1 to {teacher}"
            )
    return pairs
