"""Networks of any size, read and embedded window by window."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from garden import GARDEN
from tools import every_kind
from weightspace.autoencoder.coding import encode_tokens
from weightspace.autoencoder.sane import SANE
from weightspace.cli.app import main
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.fitting import fit_preparation
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.reading import InMemory, TokenReader
from weightspace.errors import InputError
from weightspace.tokens.layout import plan_layout
from weightspace.tokens.patterns import locate_tokens, token_patterns
from weightspace.tokens.tokenizing import flatten_weights, gather_tokens
from weightspace.tokens.windows import WindowCut
from weightspace.weights.files import open_weights, write_weights
from weightspace.weights.values import Weights
from weightspace.zoo.zoo import Zoo

LARGE = Path(__file__).parent.parent / "benchmarks" / "embed_large.py"
PUBLISHED = Path(__file__).parent.parent.parent / "shared" / "weights" / "akamaster_cifar10"


@pytest.fixture
def sane(sane_folder: Path) -> SANE:
    return SANE.open(sane_folder)


@given(width=st.integers(1, 40), style=st.sampled_from(["rows", "packed"]))
def test_patterns_and_positions_are_those_of_the_table(width: int, style: str) -> None:
    layout = plan_layout(every_kind(), width, style=style)  # type: ignore[arg-type]
    table, patterns = layout.table(), token_patterns(layout)
    positions, pattern = locate_tokens(layout, np.arange(len(layout)))
    assert np.array_equal(positions, table.positions.numpy())
    assert np.array_equal(patterns.mask[pattern], table.mask.numpy())
    assert np.array_equal(patterns.tensor[pattern], table.tensor.numpy())
    bias = layout.is_bias[table.tensor] & table.mask
    assert np.array_equal(patterns.bias[pattern], bias.numpy())


@given(width=st.integers(1, 40), style=st.sampled_from(["rows", "packed"]))
def test_tokens_cut_from_rows_are_those_of_the_index(width: int, style: str) -> None:
    weights = every_kind()
    layout = plan_layout(weights, width, style=style)  # type: ignore[arg-type]
    flat, table = flatten_weights(weights, layout), layout.table()
    two = gather_tokens(torch.stack([flat, 2 * flat]), layout)
    expected = torch.where(table.mask, flat[table.index], torch.zeros(()))
    torch.testing.assert_close(two[0], expected, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(two[1], 2 * expected, equal_nan=True, rtol=0, atol=0)


@given(length=st.integers(1, 60), content=st.integers(1, 9), halo=st.integers(0, 5), data=st.data())
def test_windows_treated_in_runs_are_all_windows(length: int, content: int, halo: int, data: st.DataObject) -> None:
    cut, values = WindowCut(length, content, halo), torch.arange(length)
    at_once = data.draw(st.integers(1, cut.count))
    merged, seen = [], []
    for first in range(0, cut.count, at_once):
        count = min(at_once, cut.count - first)
        index, present = cut.index(first, count)
        start, stop = cut.seen(first, count)
        assert start <= int(index.min()) and int(index.max()) < stop
        merged.append(cut.merge(values[index], first, count))
        seen.append(present)
    assert torch.equal(torch.cat(merged), values)
    whole = cut.index(0, cut.count)[1]
    assert torch.equal(torch.cat(seen), whole)


@pytest.mark.parametrize("style", ["rows", "packed"])
@pytest.mark.parametrize("name", GARDEN)
def test_runs_of_tokens_read_from_a_file_are_those_of_the_network(name: str, style: str, tmp_path: Path) -> None:
    weights = dict(GARDEN[name][0]().state_dict())
    preparation = Preparation(
        config=PreparationConfig(token_width=24, token_style=style),  # type: ignore[arg-type]
        kinds={"conv": (0.1, 2.0), "linear": (-0.2, 0.5)},
    )
    write_weights(tmp_path / "net.safetensors", weights)
    stored = open_weights(tmp_path / "net.safetensors")
    architecture = preparation.architecture_for(stored.meta())
    prepared = preparation.prepare(stored.read(), architecture)
    names = dict(zip(prepared.frame.names, architecture.shapes, strict=True))
    for source in (stored, InMemory(weights)):
        reader = TokenReader(prepared.frame, names, source)
        for start in range(0, len(reader), max(1, len(reader) // 7)):
            stop = min(len(reader), start + max(1, len(reader) // 5))
            torch.testing.assert_close(reader.read(start, stop), prepared.tokens[start:stop])


def test_a_known_network_has_the_embedding_it_has_in_its_zoo(sane: SANE, parts: tuple[Zoo, ...]) -> None:
    """At its last epoch, whose match to the reference holds for all epochs of a member of a zoo."""
    last = parts[2].last()
    for aggregation in ("mean", "mean+spread", "readout", "sequence"):
        expected = sane.embed(last, aggregation).features
        for row in (0, len(last) - 1):
            found = sane.embed_network(last.weights(row), aggregation)
            np.testing.assert_allclose(found.vector, expected[row], rtol=1e-4, atol=1e-5)
            assert found.architecture.startswith("mlp-64-8-10")
            assert found.assumed == (f"taken for {found.architecture} by its names and shapes",)


def summaries_of(sane: SANE, weights: Weights) -> torch.Tensor:
    prepared = sane.preparation.prepare(weights)
    return encode_tokens(sane.network, prepared.tokens[None], prepared.frame.layout, summaries=True)[0]


def test_any_network_is_embedded_whatever_the_batch_of_windows(sane: SANE, tmp_path: Path) -> None:
    weights = {
        **{f"layers.{n}.{k}": t for n in range(3) for k, t in torch.nn.Linear(70, 30).state_dict().items()},
        "steps": torch.tensor(3),
    }
    write_weights(tmp_path / "net.safetensors", weights)
    torch.save(weights, tmp_path / "net.pt")
    latents = summaries_of(sane, weights)
    for source in (weights, open_weights(tmp_path / "net.safetensors"), open_weights(tmp_path / "net.pt")):
        for windows in (1, 2, 5, None):
            found = sane.embed_network(source, windows=windows)
            torch.testing.assert_close(found.vector, latents.mean(0), rtol=1e-4, atol=1e-5)
    assert found.architecture == "unknown" and found.weights == 3 * 71 * 30 and found.tokens == len(latents)
    assumed = " | ".join(found.assumed)
    assert "no alignment" in assumed and "P.bias" in assumed and "1 tensors that are no 16- or 32-bit" in assumed


def test_nan_is_named(sane: SANE, tmp_path: Path) -> None:
    weights = {"a.weight": torch.ones(3, 4), "b.weight": torch.full((2, 2), torch.nan)}
    write_weights(tmp_path / "net.safetensors", weights)
    for source in (weights, open_weights(tmp_path / "net.safetensors")):
        with pytest.raises(InputError, match=r"expected finite weights, found NaN or infinite values in b\.weight"):
            sane.embed_network(source)
    with pytest.raises(InputError, match="expected an aggregation among mean"):
        sane.embed_network(weights, "median")


def test_numbers_and_networks_without_tokens(sane: SANE, tmp_path: Path) -> None:
    weights = {"a.weight": torch.randn(5, 70), "a.bias": torch.randn(5), "scale": torch.tensor(2.0)}
    write_weights(tmp_path / "net.safetensors", weights)
    expected = summaries_of(sane, weights).mean(0)
    for source in (weights, open_weights(tmp_path / "net.safetensors")):
        torch.testing.assert_close(sane.embed_network(source).vector, expected, rtol=1e-4, atol=1e-5)
    for empty in ({"x": torch.arange(5)}, {"x": torch.zeros(3, dtype=torch.float64)}, {"x": torch.zeros(0, 3)}):
        with pytest.raises(InputError, match="expected 16- or 32-bit floating-point weights in a network, found"):
            sane.embed_network(empty)


def test_the_command_embeds_files_and_folders(
    sane_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "nets"
    folder.mkdir()
    for number in (2, 10):
        write_weights(folder / f"net-{number}.safetensors", dict(torch.nn.Linear(9, number).state_dict()))
    (folder / "notes.txt").write_text("not a network")
    torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "alone.pt")
    with pytest.raises(SystemExit) as end:
        main(["embed", str(sane_folder), str(folder), str(tmp_path / "alone.pt"), "--out", str(tmp_path / "e.parquet")])
    out = capsys.readouterr().out
    assert not end.value.code and "3 embeddings of width 8; assumed: " in out
    table = pd.read_parquet(tmp_path / "e.parquet")
    assert [Path(name).name for name in table["network"]] == ["net-2.safetensors", "net-10.safetensors", "alone.pt"]
    assert table["weights"].tolist() == [20, 100, 12] and "z7" in table.columns
    (tmp_path / "empty").mkdir()
    write_weights(tmp_path / "broken.safetensors", {"a": torch.tensor([torch.inf])})
    cases = {
        tmp_path / "empty": "expected weight files",
        tmp_path / "no.pt": "found nothing there",
        tmp_path / "broken.safetensors": "broken.safetensors: expected finite weights",
    }
    for place, sentence in cases.items():
        with pytest.raises(SystemExit) as end:
            main(["embed", str(sane_folder), str(place), "--out", str(tmp_path / "f.parquet")])
        assert end.value.code == 2 and sentence in capsys.readouterr().err


def test_networks_of_different_depth_have_means_only(sane: SANE, tmp_path: Path) -> None:
    write_weights(tmp_path / "a.safetensors", dict(torch.nn.Linear(4, 4).state_dict()))
    two = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    write_weights(tmp_path / "b.safetensors", dict(two.state_dict()))
    assert sane.embed_files([tmp_path]).features.shape == (2, 8)
    with pytest.raises(InputError, match="expected networks with the same layers for readout"):
        sane.embed_files([tmp_path], "readout")


def test_published_resnets_are_embedded(sane: SANE) -> None:
    if not PUBLISHED.is_dir():
        pytest.skip("needs the published CIFAR-10 ResNets")
    found = sane.embed_files([PUBLISHED])
    assert found.features.shape == (4, 8) and np.isfinite(found.features).all()
    assert found.table["weights"].is_monotonic_increasing


@pytest.mark.slow
def test_memory_does_not_grow_with_the_network(tmp_path: Path) -> None:
    peaks = []
    for weights in (25_000_000, 100_000_000):
        words = [sys.executable, str(LARGE), "--weights", str(weights), "--folder", str(tmp_path)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        peaks.append(json.loads(done.stdout)["peak_mb"])
    assert peaks[1] - peaks[0] < 200


def test_a_corpus_is_as_large_as_the_weights(
    parts: tuple[Zoo, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, corpus = fit_preparation(parts[0], PreparationConfig(), tmp_path)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    raw = sum(tensor.nbytes for piece in parts[0].stacks() for tensor in piece.stack.values())
    assert written <= 1.1 * raw
    for part in corpus.parts:
        monkeypatch.setattr("weightspace.corpus.corpus.CHUNK", 3 * part.flat.shape[1])
        assert len(next(part.chunks())) == 3 and torch.equal(torch.cat(list(part.chunks())), part.flat)
        assert torch.equal(corpus.closed().opened().parts[0].flat, corpus.parts[0].flat)
