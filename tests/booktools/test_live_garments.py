"""The packed student of the images in the page: its file, its answers, and what readers do."""

from __future__ import annotations

import base64
import copy
import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from distill_lib import Cache, compress, data, zoo
from distill_lib.booktools.students import Figure, figure, garments
from distill_lib.checkpoints import CheckpointError

LIVE = "document.querySelector('.dl-live').live"
TAKE = "text => Uint8Array.from(atob(text), c => c.charCodeAt(0))"
# What a file unpacks to, as base64 of its 32-bit floats, or why it is refused, and the time.
READ = f"""async ([files, shapes]) => {{
  const live = {LIVE}, take = {TAKE}, found = [];
  for (const file of files) {{
    const begun = performance.now(), tensors = {{}};
    try {{
      for (const [name, v] of await live.unpack(take(file), shapes)) {{
        const bytes = new Uint8Array(v.buffer, v.byteOffset, v.byteLength);
        let text = "";
        for (let i = 0; i < bytes.length; i += 8192)
          text += String.fromCharCode(...bytes.subarray(i, i + 8192));
        tensors[name] = btoa(text);
      }}
      found.push([performance.now() - begun, tensors, ""]);
    }} catch (error) {{ found.push([performance.now() - begun, null, error.message]); }}
  }}
  return found;
}}"""


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def sealed(content: bytes) -> bytes:
    """With the checksum that fits."""
    return content[:-4] + struct.pack("<I", zlib.crc32(content[:-4]))


def remade(content: bytes, change: Any) -> bytes:
    """A file whose header was changed, and whose checksum fits."""
    head, table = struct.unpack("<II", content[8:16])
    header = json.loads(zlib.decompress(content[16 : 16 + head]))
    change(header)
    packed = zlib.compress(json.dumps(header).encode())
    sizes = struct.pack("<II", len(packed), table)
    return sealed(content[:8] + sizes + packed + content[16 + head :])


def read(page: Any, files: list[bytes], shapes: dict[str, list[int]]) -> list[Any]:
    found = page.evaluate(READ, [[text_of(file) for file in files], shapes])
    for one in found:
        if one[1] is not None:
            one[1] = {
                k: torch.from_numpy(np.frombuffer(base64.b64decode(v), "<f4").copy())
                for k, v in one[1].items()
            }
    return found


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.float().flatten() for name, tensor in net.state_dict().items()}


def shapes_of(net: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in net.state_dict().items()}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32)


@pytest.fixture(scope="module")
def made() -> Figure:
    return figure("garments")


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return garments.student()


@pytest.fixture(scope="module")
def content() -> bytes:
    return (zoo.FOLDER / garments.FILE).read_bytes()


def open_in(page: Any, made: Figure) -> Any:
    whole = f"<!doctype html><html lang=en><title>x</title><body><main>{made.html}</main></body>"
    page.set_content(f"{whole}</html>")
    page.evaluate(f"{LIVE}.ready.then(() => 1)")
    return page


@pytest.fixture
def live(page, made: Figure):
    return open_in(page, made)


@pytest.fixture(scope="module")
def opened(page, made: Figure, tmp_path_factory: pytest.TempPathFactory):
    """A page that is only read with, and a folder."""
    return open_in(page, made), tmp_path_factory.mktemp("packed")


def shown(page: Any) -> dict[str, Any]:
    """The numbers on show, once the last stroke is answered."""
    page.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
    return json.loads(page.locator(".dl-live").get_attribute("data-values"))


def test_the_file_is_unpacked_bit_for_bit(live, net: nn.Module, content: bytes) -> None:
    ((took, found, _),) = read(live, [content], shapes_of(net))
    print(f"{len(content)} bytes read in {took:.0f} ms")
    known = state(net)
    assert sorted(found) == sorted(known)
    assert all(torch.equal(bits(found[name]), bits(known[name])) for name in known)


def test_the_page_answers_as_torch(live, net: nn.Module) -> None:
    test = data.load("fashion_mnist", "test")
    draw = torch.Generator().manual_seed(0)
    gray = (255 * (test.inputs[:300, 0] * 0.3530 + 0.2860)).round().clamp(0, 255).byte()
    gray = torch.cat([gray, torch.randint(256, (20, 28, 28), generator=draw).byte()])
    gray = torch.cat([gray, torch.zeros(1, 28, 28).byte(), torch.full((1, 28, 28), 255).byte()])
    ask = f"""all => all.map(text => {{
      const pixels = Float32Array.from(({TAKE})(text), v => v / 255), begun = performance.now();
      return [{LIVE}.answer(pixels), performance.now() - begun];
    }})"""
    said = live.evaluate(ask, [text_of(one.numpy().tobytes()) for one in gray])
    with torch.inference_mode():
        known = net((gray[:, None].float() / 255 - 0.2860) / 0.3530)
    gap = (torch.tensor([z for z, _ in said]) - known).abs().max().item()
    times = sorted(ms for _, ms in said)
    print(f"largest difference {gap:.1e} of {len(gray)} images; {times[len(times) // 2]:.0f} ms,")
    print(f"at most {times[-1]:.0f} ms an image")
    assert gap < 1e-4


def test_each_class_is_there_and_some_that_the_student_gets_wrong(net: nn.Module) -> None:
    test = data.load("fashion_mnist", "test")
    stored = Cache(zoo.FOLDER / "fashion_resnet20.test.cache")
    teacher = stored({"index": test.index[: garments.LOOKED_AT]})["logits"].float()
    with torch.inference_mode():
        logits = net(test.inputs[: garments.LOOKED_AT])
    which = garments.chosen(test, logits, teacher)
    labels = test.labels[which]
    assert sorted(labels[:10].tolist()) == list(range(10)) and len(which) == 12
    assert (logits[which].argmax(1) == labels).tolist() == [True] * 10 + [False] * 2
    assert (teacher[which].argmax(1) == labels).all()


# ---- damaged files ----


def damaged(content: bytes, count: int) -> list[bytes]:
    """Flipped, cut, lengthened and random ones; none is the file."""
    draw, found = random.Random(0), []
    for i in range(count):
        torn, kind = bytearray(content), i % 4
        if kind == 0:
            torn[draw.randrange(len(torn))] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del torn[draw.randrange(len(torn)) :]
        elif kind == 2:
            at = draw.randrange(len(torn))
            torn[at : at + 40] = draw.randbytes(draw.randrange(41, 80))
        else:
            torn = bytearray(draw.randbytes(draw.randrange(2_000)))
            torn[:8] = content[: draw.choice([0, 8])].ljust(8, b"x")
        found.append(bytes(torn))
    return found


def test_damaged_files_are_refused(live, net: nn.Module, content: bytes) -> None:
    files = [b"", content[:8], content + b"\0", *damaged(content, 400)]
    found = read(live, files, shapes_of(net))
    assert all(tensors is None and why for _, tensors, why in found)
    print(f"{len(files)} refused, at most {max(ms for ms, _, _ in found):.0f} ms each")


def test_what_passes_with_a_right_checksum_is_what_python_reads(
    live, net: nn.Module, content: bytes, tmp_path: Path
) -> None:
    """The reader of the page takes nothing that Python refuses, and then the same numbers."""

    def entry(name: str, **new: Any) -> Any:
        def change(header: dict[str, Any]) -> None:
            next(e for e in header["tensors"] if e["k"] == name).update(new)

        return change

    big = 1 << 40
    changes = [
        entry("fc.weight", s=[big]),
        entry("fc.weight", s=["10", 32]),
        entry("fc.weight", b=[big, 145]),
        entry("fc.weight", b=[16, big]),
        entry("fc.weight", b=[0, 0]),
        entry("fc.weight", b=[-1, 145]),
        entry("fc.weight", b=[16.5, 145]),
        entry("fc.weight", n=big),
        entry("fc.weight", n=10),
        entry("fc.weight", g=[big, 10]),
        entry("fc.weight", g=[5, 10], n=5),
        entry("fc.weight", t="float64"),
        entry("fc.weight", t="constructor"),
        entry("fc.weight", k="__proto__"),
        entry("fc.weight", k="conv.bias"),
        entry("fc.weight", b="none"),
        lambda header: header["tensors"].pop(),
        lambda header: header["tensors"].append(header["tensors"][0]),
        lambda header: header.update(tensors=7),
        lambda header: header.update(ties={"fc.weight": "conv.weight"}),
        lambda header: header.update(more=["x"]),
    ]
    files = [remade(content, change) for change in changes]
    bomb = zlib.compress(b" " * (8 << 20), 9)
    files.append(sealed(content[:8] + struct.pack("<II", len(bomb), 4) + bomb + content[16:]))
    files += [sealed(file) for file in damaged(content, 120) if len(file) > 30]
    found = read(live, files, shapes_of(net))
    taken, blank = 0, garments.fresh()
    for file, (_, tensors, _) in zip(files, found, strict=True):
        (tmp_path / "x").write_bytes(file)
        other = copy.deepcopy(blank)
        try:
            compress.load_packed(other, tmp_path / "x")
        except CheckpointError:
            assert tensors is None
            continue
        if tensors is not None:
            taken += 1
            known = state(other)
            assert all(torch.equal(bits(tensors[k]), bits(known[k])) for k in known)
    print(f"{len(files)} files with a right checksum, {taken} of them read as in Python")
    assert 0 < taken < len(files)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["zeros", "few", "alone", "many", "half"]))
def test_zeros_and_codebooks_come_back(opened, seed: int, kind: str) -> None:
    torch.manual_seed(seed)
    one = nn.Linear(40, 30)
    with torch.no_grad():
        if kind == "zeros":  # gaps longer than one symbol can say
            one.weight[torch.rand(one.weight.shape) < 0.995] = 0
        elif kind == "few":
            one.weight.copy_(torch.randint(4, one.weight.shape) - 1.5)
            one.weight[torch.rand(one.weight.shape) < 0.9] = 0
        elif kind == "alone":
            one.weight.fill_(0.25)
    if kind == "half":
        one.half()
    page, folder = opened
    compress.save_packed(one, folder / "x")
    ((_, found, why),) = read(page, [(folder / "x").read_bytes()], shapes_of(one))
    assert found is not None, why
    assert all(torch.equal(bits(found[k]), bits(v)) for k, v in state(one).items())


# ---- what readers do ----


def test_keys_move_a_brush_that_smears_draws_and_erases(live) -> None:
    first = shown(live)
    live.locator("canvas").focus()
    for key in ("Space", *["ArrowLeft"] * 6, *["ArrowUp"] * 5, "Space"):
        live.keyboard.press(key)
    smeared = shown(live)
    assert smeared["student"] != first["student"] and smeared["teacher"] == first["teacher"]
    live.keyboard.press("ArrowRight")  # the brush is up
    assert shown(live)["student"] == smeared["student"]
    assert "as it is now" in live.locator("[data-part=said]").text_content()
    live.get_by_label("draw").check()
    live.locator("canvas").focus()
    live.keyboard.press("Space")
    drawn = shown(live)
    assert drawn["student"] != smeared["student"]
    live.keyboard.press("Escape")
    assert live.locator("[data-part=brush]").text_content() == "up"
    live.get_by_role("button", name="restore").click()
    assert shown(live)["student"] == first["student"]
    live.get_by_role("button", name="clear").click()
    empty = shown(live)
    live.get_by_label("erase").check()
    live.locator("canvas").focus()
    live.keyboard.press("Space")
    assert shown(live)["student"] == empty["student"]  # nothing is left to erase


def test_a_pointer_smears_and_another_picture_comes_whole(live, net: nn.Module) -> None:
    first, box = shown(live), live.locator("canvas").bounding_box()
    live.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    live.mouse.down()
    live.mouse.move(box["x"] + 20, box["y"] + 20)  # one jump is a whole stroke
    live.mouse.up()
    assert shown(live)["student"] != first["student"]
    live.mouse.move(box["x"] + 200, box["y"] + 200)
    after = shown(live)["student"]
    assert shown(live)["student"] == after
    live.locator("[data-image]").nth(3).click()
    found, test = shown(live), data.load("fashion_mnist", "test")
    assert found["image"] == 3 and live.locator('[aria-pressed="true"]').count() == 1
    with torch.inference_mode():
        known = net(test.inputs[:1000]).softmax(1)
    assert (known - torch.tensor(found["student"])).abs().amax(1).min() < 1e-4


def test_a_finger_smears_and_the_page_does_not_scroll(live) -> None:
    live.locator("canvas").scroll_into_view_if_needed()
    first, box = shown(live), live.locator("canvas").bounding_box()
    before = live.evaluate("scrollY")
    finger = live.context.new_cdp_session(live)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for kind, dy in (("Start", 0), ("Move", -40), ("Move", -80), ("End", None)):
        points = [] if dy is None else [{"x": x, "y": y + dy}]
        finger.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    assert shown(live)["student"] != first["student"]
    assert live.evaluate("scrollY") == before
    assert live.locator("[data-part=brush]").text_content() == "up"


def test_one_slider_softens_both(live) -> None:
    cold = shown(live)
    live.locator("input[type=range]").focus()
    for _ in range(15):
        live.keyboard.press("ArrowRight")
    warm = shown(live)
    assert warm["T"] > cold["T"] == 1
    for who in ("teacher", "student"):
        logits = torch.tensor(cold[who], dtype=torch.float64).log()
        assert torch.tensor(warm[who]).allclose((logits / warm["T"]).softmax(0).float(), atol=1e-5)
    said = live.locator("tbody tr").first.locator("td span:last-child").all_text_contents()
    values = [float(text.rstrip("%")) for text in said]
    assert values == pytest.approx([100 * warm[w][0] for w in ("teacher", "student")], abs=0.6)
    assert f"T = {warm['T']:g}" in live.locator("output").text_content()


def test_a_flipped_bit_is_shown_to_be_refused(live) -> None:
    live.get_by_role("button", name="flip a bit").click()
    live.locator("[data-part=file]", has_text="refused").wait_for()


def test_a_page_with_a_damaged_file_says_so(page, made: Figure, content: bytes) -> None:
    torn = bytearray(content)
    torn[20_000] ^= 1
    whole = made.html.replace(text_of(content), text_of(bytes(torn)))
    page.set_content(f"<!doctype html><html lang=en><body>{whole}</body></html>")
    page.locator("[data-part=said]", has_text="refused, its checksum does not fit").wait_for()
    assert page.locator('[data-of="1"]').first.text_content() == "…"


def test_it_excludes_nobody(live, excludes_nobody) -> None:
    excludes_nobody(live)


def test_it_is_made_the_same_again_and_has_words_without_scripts(made: Figure) -> None:
    assert figure("garments") == made and not made.files
    assert "<noscript>A small network says" in made.html
    assert "does not run here" in " ".join(made.html.split()) and "untouched" in made.html
