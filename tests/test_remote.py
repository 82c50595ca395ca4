"""Weights behind addresses: read by ranges of bytes, fetched into the hub's cache, refused in a sentence."""

import inspect
import io
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
import torch
from safetensors.torch import save_file

import weightspace as ws
from loopback_hub import Hub, hub_of
from tools import refused, run
from weightspace.fetching import _go_on
from weightspace.remote import address_of, with_revision, without_secrets

WIDTH = 5792  # of eight matrices, which are a gigabyte
SECRET = "hf_" + "Secret" * 4


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty repository, `hf://org/name`, and a cache of its own."""
    client = pytest.importorskip("huggingface_hub.utils")
    client.disable_progress_bars()
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    with hub_of(folder) as hub:
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": hub.address, "skip_instance_cache": True})
        yield hub


def sharded(folder: Path) -> int:
    """A gigabyte of weights in four files with holes in them; returns how many bytes they have."""
    weight_map: dict[str, str] = {}
    total = 0
    for shard in range(4):
        names = [f"model.layers.{layer}.weight" for layer in range(2 * shard, 2 * shard + 2)]
        size = WIDTH * WIDTH * 4
        header = {
            name: {"dtype": "F32", "shape": [WIDTH, WIDTH], "data_offsets": [place * size, (place + 1) * size]}
            for place, name in enumerate(names)
        }
        text = json.dumps(header).encode()
        file = folder / f"model-{shard + 1:05d}-of-00004.safetensors"
        with file.open("wb") as target:
            target.write(struct.pack("<Q", len(text)) + text)
            target.truncate(8 + len(text) + len(names) * size)
        weight_map |= dict.fromkeys(names, file.name)
        total += file.stat().st_size
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"architectures": ["WideNet"]}))
    return total


@pytest.mark.parametrize("scheme", ["hf", "http"])
def test_inspect_reads_the_headers_of_a_gigabyte(scheme: str, hub: Hub) -> None:
    """In a process of its own: what checks types in tests looks at a tensor of every mapping."""
    total = sharded(hub.folder)
    name = "hf://org/name"
    if scheme == "http":
        pytest.importorskip("aiohttp")
        name = f"{hub.address}/files/model-00001-of-00004.safetensors"
    command = [sys.executable, "-m", "weightspace", "inspect", name, "--json"]
    where = {**os.environ, "FSSPEC_HF_ENDPOINT": hub.address, "HF_TOKEN": SECRET}
    ended = subprocess.run(command, env=where, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (checkpoint,) = json.loads(ended.stdout)["checkpoints"]
    assert checkpoint["dtypes"] == {"float32": WIDTH**2 * (8 if scheme == "hf" else 2)} and not checkpoint["problem"]
    assert total > 1e9 and hub.sent < 1e-5 * total
    assert SECRET not in ended.stdout + ended.stderr


def test_of_a_file_far_away_the_tensors_that_are_asked_for_are_read(hub: Hub) -> None:
    weights = {"a.weight": torch.randn(100, 50), "b.weight": torch.randn(300, 200)}
    save_file(weights, hub.folder / "model.safetensors")
    stored = ws.open_weights("hf://org/name")
    assert list(stored) == ["a.weight", "b.weight"] and stored.meta()["b.weight"].shape == (300, 200)
    before = hub.sent
    assert torch.equal(stored["a.weight"], weights["a.weight"])
    assert torch.equal(stored.part("b.weight", 0, 10, 12), weights["b.weight"][10:12])
    assert hub.sent - before < 2 * (20_000 + 1_600)  # twice, where types are checked
    assert torch.equal(ws.open_weights("hf://org/name@v1/model.safetensors")["a.weight"], weights["a.weight"])


def test_what_has_to_be_whole_is_fetched_once(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A torch file, a model of ours and a zoo, into the cache that the hub's own client has."""
    torch.save({"weight": torch.randn(300, 200)}, hub.folder / "net.pt")
    first = ws.open_weights("hf://org/name/net.pt").read()
    sent = hub.sent
    again = ws.open_weights("hf://org/name/net.pt").read()
    assert torch.equal(first["weight"], again["weight"]) and hub.sent - sent < 20_000 < sent
    assert next((tmp_path / "cache" / "hub").rglob("net.pt")).is_file()
    _, said, _ = run(capsys, "inspect", "hf://org/name", "--json")
    assert "--values does" in json.loads(said)["checkpoints"][0]["notes"][0]
    _, said, _ = run(capsys, "inspect", "hf://org/name", "--values", "--json")
    assert json.loads(said)["checkpoints"][0]["parameters"] == 60_000
    pytest.importorskip("aiohttp")
    over_http = ws.open_weights(f"{hub.address}/files/net.pt").read()
    assert torch.equal(over_http["weight"], first["weight"])


@pytest.mark.parametrize("scheme", ["hf", "http"])
def test_what_was_broken_off_goes_on_where_it_stopped(scheme: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("weightspace.fetching.PIECE", 1 << 18)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the attempts of the hub's client
    weights = {"weight": torch.randn(1_000, 1_000)}
    torch.save(weights, hub.folder / "net.pt")
    size = (hub.folder / "net.pt").stat().st_size
    name = "hf://org/name/net.pt" if scheme == "hf" else f"{hub.address}/files/net.pt"
    hub.left = size // 2
    with pytest.raises(ws.InputError, match="net.pt"):
        ws.open_weights(name)
    assert not hub.left
    hub.left = sys.maxsize
    assert torch.equal(ws.open_weights(name)["weight"], weights["weight"])
    assert hub.sent < 1.1 * size


@pytest.mark.parametrize(("held", "seekable"), [(b"", False), (b"ab", True), (b"ab", False), (b"longer", True)])
def test_a_part_is_gone_on_with_or_begun_anew(held: bytes, seekable: bool, tmp_path: Path) -> None:
    class Stream(io.BytesIO):
        def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
            if not seekable:
                raise ValueError("Cannot seek streaming file")
            return super().seek(offset, whence)

    partial = tmp_path / "partial"
    partial.write_bytes(held)
    _go_on(SimpleNamespace(open=lambda *words, **options: Stream(b"abcd")), "path", partial, 4)
    assert partial.read_bytes() == b"abcd"


def test_what_came_wrong_is_fetched_again(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub tells the hash of a large file."""
    monkeypatch.setattr("weightspace.fetching.PIECE", 1 << 12)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the attempts of the hub's client
    weights = {"weight": torch.randn(100, 100)}
    torch.save(weights, hub.folder / "net.pt")
    hub.left = 20_000
    with pytest.raises(ws.InputError):
        ws.open_weights("hf://org/name/net.pt")
    hub.left = sys.maxsize
    (partial,) = (tmp_path / "cache" / "hub").rglob("*.weightspace.incomplete")
    partial.write_bytes(bytes(len(partial.read_bytes())))
    with pytest.raises(ws.InputError, match="found another one in what it sent"):
        ws.open_weights("hf://org/name/net.pt")
    assert not partial.exists()
    assert torch.equal(ws.open_weights("hf://org/name/net.pt")["weight"], weights["weight"])


def test_zoos_and_models_are_opened_where_they_are(
    hub: Hub,
    zoo_folder: Path,
    sane_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Small files by the hub's client, large ones piece by piece."""
    monkeypatch.setattr("weightspace.fetching.PIECE", 1 << 14)
    shutil.copytree(zoo_folder, hub.folder / "zoo")
    shutil.copytree(sane_folder, hub.folder / "sane")
    zoo, near = ws.Zoo.open("hf://org/name/zoo"), ws.Zoo.open(zoo_folder)
    blobs = list((tmp_path / "cache" / "hub").rglob("blobs/*"))
    assert min(blob.stat().st_size for blob in blobs) < 1 << 14 < max(blob.stat().st_size for blob in blobs)
    assert zoo.members == near.members and torch.equal(*(next(iter(z.weights(0).values())) for z in (zoo, near)))
    assert ws.SANE.open("hf://org/name/sane").preparation.config == ws.SANE.open(sane_folder).preparation.config
    _, said, _ = run(capsys, "zoo", "hf://org/name/zoo", "--revision", "v1")
    assert any("revision/v1" in asked for asked in hub.asked) and str(len(zoo)) in said
    status, _, why = run(capsys, "embed", "hf://org/name/sane", "hf://org/name/zoo", "--out", tmp_path / "e.parquet")
    assert status == 0 and (tmp_path / "e.parquet").is_file(), why
    save_file(dict(near.weights(0)), hub.folder / "model.safetensors")
    for words in (
        ["embed", "hf://org/name/sane", "hf://org/name", "--out", tmp_path / "one.parquet"],
        ["layers", "hf://org/name/sane", "hf://org/name/model.safetensors", "--out", tmp_path / "layers.png"],
        ["similar", "hf://org/name/sane", "hf://org/name/zoo", "hf://org/name"],
        ["diff", f"{zoo_folder}:{near.members[0]}", "hf://org/name/model.safetensors"],
        ["diff", f"{zoo_folder}:{near.members[0]}", f"hf://org/name/zoo:{near.members[0]}"],
        ["import", "hf://org/name/model.safetensors", "--out", tmp_path / "imported"],
    ):
        status, _, why = run(capsys, *words)
        assert status == 0, (words, why)
    assert "a copy of one behind an address" in refused(capsys, "card", "hf://org/name/sane", zoo_folder)


def test_an_adapter_far_away_has_its_configuration(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hub.folder / "one"
    folder.mkdir()
    factors = {"q.lora_A.weight": torch.randn(2, 8), "q.lora_B.weight": torch.randn(4, 2)}
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 16}))
    run(capsys, "import", "hf://org/name", "--out", tmp_path / "far")
    run(capsys, "import", hub.folder, "--out", tmp_path / "near")
    far, near = (ws.Zoo.open(tmp_path / name) for name in ("far", "near"))
    assert list(far.table["alpha"]) == [16]
    torch.testing.assert_close(dict(far.weights(0)), dict(near.weights(0)))


def test_no_secret_of_an_address_is_printed_or_written(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("aiohttp")
    save_file({"a.weight": torch.randn(4, 4)}, hub.folder / "model.safetensors")
    address = f"{hub.address}/files/model.safetensors?X-Signature={'s3cret' * 60}"
    address = address.replace("http://", "http://user:s3cret@")
    for words in (["inspect", address, "--json"], ["import", address, "--out", tmp_path / "zoo"]):
        status, said, why = run(capsys, *words)
        assert status == 0 and "s3cret" not in said + why, why
    written = [file for file in tmp_path.rglob("*") if file.is_file() and b"s3cret" in file.read_bytes()]
    named = [file for file in tmp_path.rglob("*") if "s3cret" in file.name]
    assert not written and not named


def test_a_network_far_away_is_compared_with_one_here(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {"a.weight": torch.randn(60, 50), "b.weight": torch.randn(30, 60)}
    save_file(weights, hub.folder / "model.safetensors")
    save_file({**weights, "b.weight": weights["b.weight"] + 0.01}, tmp_path / "here.safetensors")
    _, said, _ = run(capsys, "diff", "hf://org/name", tmp_path / "here.safetensors")
    assert "is hf://org/name with a change of rank 1" in said


def test_what_is_not_there_or_private_is_refused_in_a_sentence(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    save_file({"weight": torch.randn(2, 2)}, hub.folder / "model.safetensors")
    for words, message in (
        (["inspect", "hf://org/private"], "one that needs a token"),
        (["inspect", "hf://org/absent"], "org/absent"),
        (["diff", "hf://org/private", "hf://org/name"], "one that needs a token"),
        (["inspect", "hf://org/name", "--revision", "v9"], "hf://org/name@v9"),
        (["inspect", "hf://org/name", "--revision"], "expected a branch, tag or commit after --revision"),
        (["inspect", str(tmp_path), "--revision", "v1"], "expected an address of the hub"),
        (["diff", "hf://org/name/absent.safetensors", "hf://org/name"], "found nothing there"),
        (["diff", "hf://org/name:member", "hf://org/name"], "hf://org/name:member"),
        (["embed", "any", "hf://org/name", "--out", "hf://org/name/e.parquet"], "expected an output on this machine"),
        (["import", "hf://org/name", "--out", "hf://org/zoo"], "expected an output on this machine"),
        (["zoo", "hf://org/name"], "expected zoo.json in hf://org/name, found none"),
        (["inspect", f"http://user:{SECRET}@127.0.0.1:9/x.safetensors"], "127.0.0.1:9"),
        (
            ["publish", str(tmp_path), "--out", str(tmp_path / "o"), "--to", "s3://a/b"],
            "expected an address such as hf:",
        ),
    ):
        said = refused(capsys, *words)
        assert message in said and SECRET not in said, said


def test_publish_uploads_by_the_hubs_own_client(
    zoo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    calls: list[tuple[str, tuple[object, ...], dict[str, object]]] = []

    def recorded(name: str) -> Callable[..., None]:
        wanted = inspect.signature(getattr(hub.HfApi, name))

        def call(*words: object, **options: object) -> None:
            wanted.bind(*words, **options)  # as the client takes them
            calls.append((name, words[1:], options))

        return call

    for name in ("create_repo", "upload_folder"):
        monkeypatch.setattr(hub.HfApi, name, recorded(name))
    to = "hf://datasets/org/name@v1"
    _, said, _ = run(capsys, "publish", zoo_folder, "--out", tmp_path / "out", "--to", to)
    assert f"uploaded to {to}" in said
    (_, made, options), (_, _, sent) = calls
    assert made == ("org/name",) and options == {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert sent == {
        "repo_id": "org/name",
        "repo_type": "dataset",
        "revision": "v1",
        "folder_path": str(tmp_path / "out"),
    }


def test_addresses_are_told_from_paths() -> None:
    assert address_of(Path("hf://org/name")) == address_of("hf://org/name") == "hf://org/name"
    assert address_of("s3://bucket/a") == "s3://bucket/a" and address_of(Path("https://a.b/c")) == "https://a.b/c"
    assert all(address_of(name) is None for name in ("nets/a.pt", "C:/nets/a.pt", "zoo:member", "a:/b", "net.pt:netG"))
    assert with_revision("hf://datasets/org/name/zoo", "a/b") == "hf://datasets/org/name@a%2Fb/zoo"
    assert (
        with_revision("hf://org/name@v1", "v2") == "hf://org/name@v1"
        and with_revision("nets/a.pt", "v2") == "nets/a.pt"
    )
    shown = without_secrets(f"see https://user:{SECRET}@host/a.pt?X-Signature={SECRET} and {SECRET}")
    assert SECRET not in shown and "https://host/a.pt" in shown
