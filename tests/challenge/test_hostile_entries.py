"""What strangers may send: each is refused with a reason, and none of it runs."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import formats
import pytest
import torch
from attempts import attempt
from crafted import PAYLOADS
from loaders import Loader
from torch import nn

from challenge import __main__ as command
from challenge import entries, networks
from challenge.networks import Refused
from distill_lib import compress, zoo
from distill_lib.compress.plans import plan_of

ROOT, MB = Path(__file__).resolve().parents[2], 2**20


def packed(net: nn.Module, folder: Path, plan: Any = None) -> bytes:
    compress.save_packed(net, folder / "made", plan)
    return (folder / "made").read_bytes()


def rewritten(data: bytes, change: Any) -> bytes:
    """A packed file with another header and the right checksum."""
    head, table = struct.unpack("<II", data[8:16])
    said = json.loads(zlib.decompress(data[16 : 16 + head]))
    said = change(said) or said
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    new = zlib.compress(text, 9)
    found = data[:8] + struct.pack("<II", len(new), table) + new + data[16 + head : -4]
    return found + struct.pack("<I", zlib.crc32(found))


def shaped(name: str, shape: Any) -> Any:
    def change(said: Any) -> None:
        next(one for one in said["tensors"] if one["k"] == name)["s"] = shape

    return change


def renamed(name: Any) -> Any:
    def change(said: Any) -> None:
        said["tensors"][-1]["k"] = name

    return change


def planned(shapes: Any, sizes: Any) -> Any:
    return lambda said: said.update(plan={"shapes": shapes, "sizes": sizes})


def put(folder: Path, data: bytes) -> Path:
    (folder / "entry.packed").write_bytes(data)
    return folder / "entry.packed"


@pytest.fixture
def pilot(tmp_path):
    return packed(zoo.Policy(8, 4, (6,)), tmp_path)


# ---- files that are something else ----


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_pickle_is_refused_and_does_not_run(payload, tmp_path):
    loader = Loader(lambda: b"", lambda f, c: entries.load(put(f, c), "lander"), Refused)
    found = attempt(loader, pickle.dumps(PAYLOADS[payload], 2), tmp_path / "x")
    assert found.end == "Refused" and not found.fault()


def test_a_zip_a_saved_module_and_nothing_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("entry.packed", b"x")
    torch.save(zoo.Policy(8, 4).state_dict(), tmp_path / "a.pt")
    (tmp_path / "a.py").write_text("print('runs')")
    (tmp_path / "a.none").write_bytes(b"")
    for path in tmp_path.iterdir():
        with pytest.raises(Refused, match="not a packed file"):
            entries.task_of(path)


def test_links_folders_devices_and_missing_files_are_refused(tmp_path, pilot):
    real, link = put(tmp_path, pilot), tmp_path / "link.packed"
    link.symlink_to(real)
    gone = tmp_path / "gone.packed"
    gone.symlink_to("/etc/hostname")
    os.mkfifo(pipe := tmp_path / "pipe.packed")
    for path in (link, gone, tmp_path, pipe, Path("/dev/zero")):
        with pytest.raises(Refused, match="it is a link, a folder or a device"):
            entries.load(path, "lander")
    for path in (tmp_path / "none", Path("a\0b"), Path("x" * 5000)):
        with pytest.raises(Refused, match="cannot be opened"):
            entries.load(path, "lander")


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    large = tmp_path / "large.packed"
    with large.open("wb") as file:
        file.truncate(2**40)  # holes: it takes no room
    with pytest.raises(Refused, match="300,000 are allowed"):
        entries.load(large, "lander")


# ---- files that are torn ----


def test_every_cut_and_every_flipped_byte_is_refused(pilot):
    for n in range(len(pilot)):
        with pytest.raises(Refused):
            entries.loaded(pilot[:n], "lander")
        flipped = bytearray(pilot)
        flipped[n] ^= 1 << n % 8
        with pytest.raises(Refused):
            entries.loaded(bytes(flipped), "lander")
    with pytest.raises(Refused):
        entries.loaded(pilot + b"x", "lander")


# ---- files that say what is not so ----

SHAPES = [
    [2**40, 8], [6, 2**40], [2**62, 2**62], [257, 8], [7, 8], [6, 9], [6], [], [0, 8], [-6, -8],
    [6.0, 8], ["6", 8], [True, 8], None, 6, "x", [6, 8, 1], [1] * 4000, [10**400, 8],
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s!r:.20}")
def test_wrong_shapes_are_refused(shape, pilot):
    with pytest.raises(Refused):
        entries.loaded(rewritten(pilot, shaped("net.0.weight", shape)), "lander")


@pytest.mark.parametrize("name", ["net.4.bias", "../../x", "", "net.2.bias\n", 7, None, "obs_mean"])
def test_wrong_names_are_refused(name, pilot):
    with pytest.raises(Refused):
        entries.loaded(rewritten(pilot, renamed(name)), "lander")


HEADERS = {
    "no JSON": lambda said: b"{",
    "a list": lambda said: b"[]",
    "deep": lambda said: b"[" * 100_000,
    "a long number": lambda said: b'{"tensors": [' + b"1" * 5000 + b"]}",
    "a bomb": lambda said: b" " * (64 * MB),
    "no tensors": lambda said: {"tensors": []},
    "a tie to nothing": lambda said: said.update(ties={"net.0.weight": "net.9.weight"}),
    "a tie that is none": lambda said: said.update(ties=[1]),
    "a class": lambda said: said["tensors"][0].update(t="nn.Module"),
    "a type of code": lambda said: said["tensors"][0].update(t="__class__"),
    "a plan": planned({"net.0.weight": [5, 8]}, {"net.0": {"out_features": 5}}),
    "no plan": lambda said: said.update(plan="x"),
    "a plan of something else": planned({}, {"": {"clip": 3}}),
    "a plan of a method": planned({}, {"net.0": {"forward": 1}}),
}


@pytest.mark.parametrize("header", HEADERS)
def test_odd_headers_are_refused(header, pilot, tmp_path):
    data = rewritten(pilot, HEADERS[header])
    loader = Loader(lambda: b"", lambda f, c: entries.loaded(c, "lander"), Refused)
    found = attempt(loader, data, tmp_path / "x")
    assert found.end == "Refused" and not found.fault()


def test_numbers_that_are_none_are_refused(tmp_path):
    for value in (float("nan"), float("inf")):
        net = zoo.Policy(8, 4, (6,))
        with torch.no_grad():
            net.net[0].weight[2, 3] = value
        with pytest.raises(Refused, match=r"net\.0\.weight holds numbers that are not finite"):
            entries.loaded(packed(net, tmp_path), "lander")


@pytest.mark.parametrize("net,task", [
    (lambda: zoo.Policy(8, 4, (257,)), "lander"),
    (lambda: zoo.Policy(8, 4, (2,) * 5), "lander"),
    (lambda: zoo.Policy(8, 4, (6,), critic=True), "lander"),
    (lambda: zoo.Policy(9, 4, (6,)), "lander"),
    (lambda: zoo.Policy(8, 2, (6,), continuous=True), "lander"),
    (lambda: zoo.ResNet(1, 17), "garments"),
    (lambda: zoo.ResNet(4, 2), "garments"),
    (lambda: zoo.ResNet(1, 2, num_classes=11), "garments"),
    (lambda: zoo.MLP([784, 257, 10]), "garments"),
    (lambda: zoo.MLP([784, 2, 2, 2, 2, 10]), "garments"),
    (lambda: zoo.BagOfEmbeddings(torch.tensor([5]), 385), "reviews"),
    (lambda: zoo.BagOfEmbeddings(torch.tensor([5]), 2, classes=3), "reviews"),
    (lambda: zoo.BagOfEmbeddings(torch.tensor([30_522]), 2), "reviews"),
])  # fmt: skip
def test_networks_beyond_the_bounds_are_refused(net, task, tmp_path):
    with pytest.raises(Refused):
        entries.loaded(packed(net(), tmp_path), task)


def test_words_that_are_not_in_the_table_end_in_a_refusal(tmp_path, monkeypatch):
    from challenge import scoring

    pytest.importorskip("transformers")
    net = zoo.BagOfEmbeddings(torch.arange(1, 30_522), 2)
    net.words.lookup[1:] = 2**30
    with pytest.raises(Refused, match="fails while it runs"):
        scoring.score(put(tmp_path, packed(net, tmp_path)), items=3)


# ---- plans ----


def test_a_plan_narrows_a_bert_and_nothing_else(tmp_path):
    pytest.importorskip("transformers")
    sizes = {"layers": 1, "hidden": 64, "heads": 2, "max_length": 64}
    dense = zoo.small_bert(torch.arange(networks.PIECES), **sizes)
    net = zoo.small_bert(torch.arange(networks.PIECES), **sizes)
    compress.prune_transformer(net, heads=0.5, ffn=0.5)
    data = packed(net, tmp_path, plan_of(dense, net))
    again = entries.loaded(data, "reviews")
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(again(ids).logits, net.eval()(ids).logits)

    def widened(said):
        said["plan"]["sizes"][next(iter(said["plan"]["sizes"]))]["num_attention_heads"] = 2**40

    def other(said):
        said["plan"]["sizes"][next(iter(said["plan"]["sizes"]))]["chunk_size_feed_forward"] = 1

    for change, match in ((widened, "no size of it"), (other, "more than heads, units and words")):
        with pytest.raises(Refused, match=match):
            entries.loaded(rewritten(data, change), "reviews")


# ---- any file ----

SMALL = {
    "lander": (lambda: zoo.Policy(8, 4, (6,)), 64 * MB),
    "garments": (lambda: zoo.SmallConvNet(3), 64 * MB),
    "reviews": (lambda: zoo.BagOfEmbeddings(torch.arange(5, 30), 4, bigrams=9), 256 * MB),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", SMALL)
def test_changed_files_are_read_or_refused_within_their_room(task, tmp_path):
    build, room = SMALL[task]

    def read(folder: Path, content: bytes) -> None:
        path = put(folder, content)
        entries.task_of(path)
        entries.load(path, task)

    loader = Loader(
        lambda: packed(build(), tmp_path), read, Refused, (formats.packed,), room=room
    )  # fmt: skip
    ends = {"read": 0, "Refused": 0}
    attempt(loader, loader.whole, tmp_path / "x")  # what is imported late
    for n in range(100):
        found = attempt(loader, loader.mutant(f"challenge/{n}"), tmp_path / "x")
        assert not found.fault(), f"{n}: {found}"
        ends[found.end] += 1
    assert ends["Refused"] > 40, ends


# ---- what lies around an entry ----

CARD = {
    "task": "lander", "author": "Ada", "track": "taught", "how": "by hand", "test_data_unseen": True
}  # fmt: skip


def test_a_description_is_short_and_plain(tmp_path):
    path = tmp_path / "card.json"

    def written(said: Any) -> Path:
        path.write_text(said if isinstance(said, str) else json.dumps(said), encoding="utf-8")
        return path

    assert entries.read_card(written(CARD)) == CARD
    wrong: list[Any] = [
        {**CARD, "more": 1}, {**CARD, "track": "magic"}, {**CARD, "task": "chess"}, [], 3, "[" * 9,
        "[" * 4000, {**CARD, "author": "x" * 301}, {**CARD, "author": ""}, {**CARD, "how": "a\nb"},
        {**CARD, "how": "a\u202eb"}, {**CARD, "author": 3}, {**CARD, "test_data_unseen": 1},
        {**CARD, "test_data_unseen": False}, {**CARD, "how": "x" * 5000}, {**CARD, "task": ["x"]},
        {**CARD, "how": "\ud800"}, {**CARD, "author": "\u200b"}, {**CARD, "author": "a\u200fb"},
    ]  # fmt: skip
    for said in wrong:
        with pytest.raises(Refused):
            entries.read_card(written(said))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refused):
        entries.read_card(path)


def test_only_what_is_new_is_taken_from_a_pull_request(tmp_path, pilot, capsys, monkeypatch):
    ours, theirs = tmp_path / "ours", tmp_path / "head/theirs"
    for folder in (ours, theirs):
        folder.mkdir(parents=True)
        (folder / "old.packed").write_bytes(pilot)
        (folder / "old.json").write_text(json.dumps(CARD))
    assert entries.offered(theirs, ours) == []
    (theirs / "new.packed").write_bytes(pilot)
    (theirs / "new.json").write_text(json.dumps(CARD))
    (theirs / "old.json").write_text(json.dumps({**CARD, "author": "Eve"}))
    assert entries.offered(theirs, ours) == ["new", "old"]
    monkeypatch.setattr(command, "ENTRIES", ours)
    assert command.main(["--offered", str(theirs), "--items", "2"]) == 1  # it cannot land
    assert "| new | lander |" in capsys.readouterr().out
    (theirs / "new.json").unlink()
    assert command.main(["--offered", str(theirs)]) == 1
    assert "refused: it cannot be opened" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["run.py", "A.packed", "a b.packed", ".packed", "x.packed.py"])
def test_other_files_beside_an_entry_are_refused(name, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / name).write_bytes(b"x")
    with pytest.raises(Refused, match="entries are NAME"):
        entries.offered(tmp_path / "new", tmp_path)


def test_links_in_a_pull_request_and_many_entries_are_refused(tmp_path, pilot):
    ours, real = tmp_path / "ours", tmp_path / "real"
    ours.mkdir()
    (real / "entries").mkdir(parents=True)
    (real / "entries/aa.packed").symlink_to("/etc/hostname")
    with pytest.raises(Refused, match="it is a link"):
        entries.offered(real / "entries", ours)
    (tmp_path / "link").symlink_to(real)
    for folder in (tmp_path / "link", tmp_path / "link/entries"):
        with pytest.raises(Refused, match="the folder of the entries is a link"):
            entries.offered(folder, ours)
    (real / "entries/aa.packed").unlink()
    for name in ("aa", "bb", "cc", "dd"):
        (real / f"entries/{name}.packed").write_bytes(pilot)
    with pytest.raises(Refused, match="at most 3"):
        entries.offered(real / "entries", ours)


def test_what_a_stranger_wrote_is_no_command_of_a_log_and_no_markup():
    assert command.plain("a\n::set-output name=x::y") == "a???set-output name=x??y"
    assert not set("\r\n|<>[]`*!&:/\x1b\u202e") & set(command.plain("\r\n|<>[]`*!&:/\x1b\u202e"))
    assert len(command.plain("x" * 5000)) == 300


def test_a_pull_request_is_scored_without_secrets_and_by_code_of_ours():
    import yaml

    file = ROOT / ".github/workflows/challenge.yml"
    jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]
    job = jobs["offered"]
    assert job["permissions"] == {"contents": "read"} and "secrets" not in json.dumps(job)
    first, second = (s["with"] for s in job["steps"] if "checkout" in s.get("uses", ""))
    assert first["ref"] == "${{ github.event.pull_request.base.sha }}" and "path" not in first
    assert second["path"].startswith("_build/")
    run = "".join(step.get("run", "") for step in job["steps"])
    assert "${{" not in run and "cd _build" not in run
    assert jobs["merged"]["permissions"] == {"contents": "read"}
