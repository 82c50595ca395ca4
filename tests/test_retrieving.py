"""The nearest networks."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from weightspace.analysis.retrieving import find_nearest, read_embeddings
from weightspace.errors import InputError
from weightspace.zoo.zoo import Zoo


def test_the_nearest_are_those_of_a_double_loop() -> None:
    generator = np.random.default_rng(0)
    known, asked = generator.normal(size=(50, 6)) * [1, 10, 0.1, 1, 1, 1], generator.normal(size=(4, 6))
    found = find_nearest(known, asked, 5)
    mean, std = known.mean(0), known.std(0)
    for row, distance, query in zip(found.rows, found.distances, asked, strict=True):
        expected = [np.linalg.norm((own - mean) / std - (query - mean) / std) for own in known]
        assert row.tolist() == np.argsort(expected)[:5].tolist()
        np.testing.assert_allclose(distance, np.sort(expected)[:5])
    assert find_nearest(known[:3], asked, 10).rows.shape == (4, 3)


def test_an_index_finds_nearly_all_of_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usearch")
    generator = np.random.default_rng(1)
    known, asked = generator.normal(size=(3_000, 16)), generator.normal(size=(20, 16))
    exact, quick = (find_nearest(known, asked, 10, search=search) for search in ("exact", "index"))
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(exact.rows.tolist(), quick.rows.tolist(), strict=True)]
    assert np.mean(shared) > 0.9 and quick.distances[0, 0] == pytest.approx(exact.distances[0, 0], rel=1e-3)
    assert find_nearest(known, asked[:1], 10, search="index").rows.shape == (1, 10)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(InputError, match=r"not installed: pip install 'weightspace\[index\]'"):
        find_nearest(known, asked, 10, search="index")


def test_what_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected networks with embeddings of width 3, found 0 of width 3"):
        find_nearest(np.empty((0, 3)), np.zeros((1, 3)), 2)
    with pytest.raises(InputError, match="of width 4, found 5 of width 3"):
        find_nearest(np.zeros((5, 3)), np.zeros((1, 4)), 2)
    (tmp_path / "no.parquet").write_text("x")
    with pytest.raises(InputError, match="expected a table that `weightspace embed` wrote"):
        read_embeddings(tmp_path / "no.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="expected columns z0, z1, "):
        read_embeddings(tmp_path / "other.parquet")


def test_similar_on_the_command_line(
    sane_folder: Path, zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from weightspace.cli.app import main

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    member = f"{zoo.folder}:{zoo.members[3]}"
    status, out, _ = run("similar", sane_folder, zoo.folder, member, "-k", 4, "--json")
    rows = json.loads(out)
    assert status == 0 and len(rows) == 4 and zoo.members[3] not in {row["member"] for row in rows}
    assert [row["distance"] for row in rows] == sorted(row["distance"] for row in rows)
    status, out, _ = run("similar", sane_folder, zoo.folder, member, "-k", 4)
    assert status == 0 and "test accuracy" in out and rows[0]["member"] in out
    run("embed", sane_folder, zoo.folder, "--out", tmp_path / "z.parquet")
    status, out, _ = run("similar", sane_folder, tmp_path / "z.parquet", member, "-k", 1, "--json")
    assert status == 0 and json.loads(out)[0]["member"] == zoo.members[3] and json.loads(out)[0]["distance"] < 1e-2
    status, _, err = run("similar", sane_folder, tmp_path / "z.parquet", member, "--aggregation", "readout")
    assert status == 2 and "expected networks with embeddings of width" in err
    status, _, err = run("similar", sane_folder, zoo.folder, "nowhere")
    assert status == 2 and "neither" in err
