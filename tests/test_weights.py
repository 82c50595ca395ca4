import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from weightspace.errors import InputError
from weightspace.weights.files import open_weights, read_weights, write_weights
from weightspace.weights.state_dicts import plain_names
from weightspace.weights.values import WeightsMismatch, find_aliases, natural_key, require_finite, require_shapes


class Hostile:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


def network() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weights = {f"layers.{n}.weight": torch.randn(3, 2) for n in (0, 2, 10)}
    return weights | {"scale": torch.tensor(2.0), "steps": torch.tensor(7), "half": torch.randn(4).half()}


def test_pt_and_safetensors_read_as_the_same_value(tmp_path: Path) -> None:
    weights = network()
    torch.save(weights, tmp_path / "a.pt")
    write_weights(tmp_path / "a.safetensors", weights)
    first, second = read_weights(tmp_path / "a.pt"), read_weights(tmp_path / "a.safetensors")
    assert list(first) == list(weights) and list(second) == sorted(weights, key=natural_key)
    for name, tensor in weights.items():
        assert torch.equal(first[name], tensor) and first[name].dtype == tensor.dtype
        assert torch.equal(second[name], tensor) and second[name].dtype == tensor.dtype


def test_layer_10_comes_after_layer_2() -> None:
    assert sorted(["l.10.w", "l.2.w", "l.1.w"], key=natural_key) == ["l.1.w", "l.2.w", "l.10.w"]


def test_recurrent_layers_read_the_input_before_the_hidden_state() -> None:
    names = [name for name, _ in nn.LSTM(2, 3, 2, bidirectional=True).named_parameters() if name.startswith("weight")]
    assert sorted(names, key=natural_key) == names
    assert sorted(["weight_hh", "weight_ih"], key=natural_key) == ["weight_ih", "weight_hh"]


def test_a_safetensors_file_keeps_the_order_of_its_bytes_where_that_is_not_the_alphabet(tmp_path: Path) -> None:
    names = ["stem.weight", "body.weight", "head.weight"]
    header = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": [8 * place, 8 * place + 8]}
        for place, name in enumerate(names)
    }
    text = json.dumps(dict(sorted(header.items()))).encode()
    data = torch.arange(6, dtype=torch.float32).numpy().tobytes()
    (tmp_path / "own.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    stored = open_weights(tmp_path / "own.safetensors")
    assert list(stored) == names and stored.ordered and stored["body.weight"].tolist() == [2.0, 3.0]
    write_weights(tmp_path / "sorted.safetensors", {f"{n}.weight": torch.ones(1) for n in (10, 2)})
    assert list(open_weights(tmp_path / "sorted.safetensors")) == ["2.weight", "10.weight"]


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_tied_tensors_come_back_tied(tmp_path: Path, kind: str) -> None:
    shared = torch.randn(4, 3)
    weights = {"embedding.weight": shared, "head.weight": shared, "other": torch.randn(2)}
    path = tmp_path / f"tied.{kind}"
    if kind == "pt":
        torch.save(weights, path)
    else:
        write_weights(path, weights)
    read = read_weights(path)
    assert find_aliases(read) == {"head.weight": "embedding.weight"}
    assert torch.equal(read["head.weight"], shared)


def test_tied_tensors_are_stored_once(tmp_path: Path) -> None:
    shared = torch.randn(100, 100)
    write_weights(tmp_path / "tied.safetensors", {"a": shared, "b": shared})
    assert (tmp_path / "tied.safetensors").stat().st_size < 1.1 * shared.numel() * 4


def test_views_of_one_storage_are_written_whole(tmp_path: Path) -> None:
    storage = torch.arange(10.0)
    write_weights(tmp_path / "views.safetensors", {"a": storage[:5], "b": storage[5:]})
    assert torch.equal(read_weights(tmp_path / "views.safetensors")["b"], torch.arange(5.0, 10.0))


def test_sharded_folders_are_read(tmp_path: Path) -> None:
    weights = network()
    names = list(weights)
    for number, part in enumerate((names[:2], names[2:])):
        write_weights(tmp_path / f"model-{number}.safetensors", {name: weights[name] for name in part})
    index = {name: f"model-{int(name not in names[:2])}.safetensors" for name in names}
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": ' + str(index).replace("'", '"') + "}")
    read = read_weights(tmp_path)
    assert all(torch.equal(read[name], tensor) for name, tensor in weights.items())


def test_a_module_round_trips(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    write_weights(tmp_path / "m.safetensors", module.state_dict())
    module.load_state_dict(read_weights(tmp_path / "m.safetensors"), strict=True)


def test_opening_is_lazy(tmp_path: Path) -> None:
    write_weights(tmp_path / "a.safetensors", network())
    stored = open_weights(tmp_path / "a.safetensors")
    assert len(stored) == 6 and torch.equal(stored["steps"], torch.tensor(7))


def test_a_hostile_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    with (tmp_path / "evil.pt").open("wb") as file:
        pickle.dump(Hostile(trap), file)
    torch.save({"a": Hostile(trap)}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(InputError, match="never run"):
            read_weights(tmp_path / name)
    assert not trap.exists()


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    write_weights(tmp_path / "whole.safetensors", network())
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-10])
    torch.save(network(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:-200])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("hello")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    torch.save({}, tmp_path / "nothing.pt")
    torch.save({1: torch.zeros(1)}, tmp_path / "numbered.pt")
    torch.save({"a": torch.eye(2).to_sparse()}, tmp_path / "sparse.pt")
    for name, text in {
        "list": "[1]",
        "numbers": '{"weight_map": {"a": 3}}',
        "self": '{"weight_map": {"a": "."}}',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors.index.json").write_text(text)
    (tmp_path / "folder").mkdir()
    cases = {
        "cut.safetensors": "expected a whole safetensors file",
        "cut.pt": "expected",
        "empty.pt": "expected",
        "notes.txt": r"found notes.txt \(.txt\)",
        "list.pt": "found a list",
        "nothing.pt": "found none",
        "numbered.pt": "found other names than text",
        "sparse.pt": "found a sparse or empty one in a",
        "list": "expected a JSON",
        "numbers": "expected a JSON",
        "self": "expected the shards",
        "folder": "an empty folder",
        "absent.pt": "found nothing there",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            read_weights(tmp_path / name)


def test_mismatches_name_every_difference() -> None:
    weights = {"a": torch.zeros(2), "b": torch.zeros(3)}
    with pytest.raises(WeightsMismatch, match=r"missing c; unexpected a; misshapen b \(3,\) instead of \(4,\)"):
        require_shapes(weights, {"b": (4,), "c": (1,)})


def test_nan_is_named() -> None:
    with pytest.raises(InputError, match=r"net: .* found 1 NaN or infinite values in b"):
        require_finite({"a": torch.zeros(2), "b": torch.tensor([1.0, torch.nan])}, "net")


def test_only_equal_views_of_memory_are_tied() -> None:
    storage = torch.randn(4)
    assert find_aliases({"a": storage, "b": storage.view(torch.int32), "c": storage[:2], "d": storage}) == {"d": "a"}


def test_conjugates_are_written_as_they_are(tmp_path: Path) -> None:
    values = torch.randn(3, dtype=torch.complex64)
    write_weights(tmp_path / "c.safetensors", {"a": values.conj()})
    assert torch.equal(read_weights(tmp_path / "c.safetensors")["a"], values.conj().resolve_conj())


def test_wrappers_of_training_scripts_are_understood(tmp_path: Path) -> None:
    plain = network()
    torch.save(plain, tmp_path / "plain.pt")
    torch.save({"epoch": 3, "note": "x", "optimizer": {"state": {}}, "model": {"state_dict": plain}}, tmp_path / "w.pt")
    wrapped = open_weights(tmp_path / "w.pt")
    assert wrapped.wrapper == ("model", "state_dict") and wrapped.metadata == {"epoch": 3, "note": "x"}
    again = wrapped.read()
    assert all(torch.equal(tensor, again[name]) for name, tensor in read_weights(tmp_path / "plain.pt").items())
    write_weights(tmp_path / "m.safetensors", plain, {"epoch": "4"})
    assert open_weights(tmp_path / "m.safetensors").metadata == {"epoch": "4"}


def test_prefixes_are_found_only_where_all_names_have_them() -> None:
    wrapped = ["module._orig_mod.a", "module.b._orig_mod.c"]
    assert plain_names(wrapped).names == {"a": wrapped[0], "b.c": wrapped[1]}
    assert plain_names(["module.a", "b"]).dropped == "" and plain_names([]).names == {}
