"""llmc.data: TinyStories and FineWeb from samples, and the source with a known entropy."""

from __future__ import annotations

import hashlib
import io
import json
import math
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_tools import documents_of, some_text, tokens_of

from llmc.data import fineweb, shards, synthetic, tinystories
from llmc.errors import DataError

# --- Samples of the large data sets ---


def test_tinystories_from_an_archive_and_from_a_folder(tmp_path):
    stories = {f"data{i:02d}.json": [{"story": f" story {i} {j}\n"} for j in range(20)] for i in range(3)}
    folder = tmp_path / "in"
    folder.mkdir()
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        for name in reversed(stories):  # in any order
            data = json.dumps(stories[name]).encode()
            (folder / name).write_bytes(data)
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    for source in (folder, tmp_path / "all.tar.gz"):
        out = tmp_path / f"out_{source.name}"
        tinystories.main(["--file", str(source), "--out", str(out), "--tokenizer", "byte", "--workers", "1"])
        assert documents_of(tokens_of(out, "tinystories", "val")) == [f"story 0 {j}" for j in range(20)]
        assert documents_of(tokens_of(out, "tinystories", "train"))[0] == "story 1 0"


@pytest.mark.parametrize("content", [b"", b"not an archive", b"\x1f\x8b\x08\0\0\0\0\0"])
def test_tinystories_from_something_else(tmp_path, content):
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match="is not the TinyStories archive"):
        tinystories.main(["--file", str(tmp_path / "x.tar.gz"), "--out", str(tmp_path / "out"), "--tokenizer", "byte"])


def write_jsonl(path: Path, count: int = 50) -> list[str]:
    documents = [some_text(seed, 40) for seed in range(count)]
    path.write_text("".join(json.dumps({"text": d, "id": i}) + "\n" for i, d in enumerate(documents)))
    return documents


def test_fineweb_from_a_sample(tmp_path):
    documents = write_jsonl(tmp_path / "a.jsonl")
    arguments = ["--file", str(tmp_path / "a.jsonl"), "--tokenizer", "byte", "--shard-tokens", "1000", "--workers", "1"]
    fineweb.main([*arguments, "--out", str(tmp_path / "all")])
    tokens = np.concatenate([tokens_of(tmp_path / "all", "fineweb", split) for split in ("val", "train")])
    assert documents_of(tokens) == documents
    assert shards.read_shard(tmp_path / "all" / "fineweb_val_000001.bin").tokens.size == 1000
    fineweb.main([*arguments, "--out", str(tmp_path / "some"), "--max-shards", "2"])
    assert len(list((tmp_path / "some").glob("fineweb_train_*.bin"))) == 2
    assert tokens_of(tmp_path / "some", "fineweb", "train").tolist() == tokens[1000:3000].tolist()


def test_fineweb_reads_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    table = sys.modules["pyarrow"].table({"text": ["one", "two"], "id": [1, 2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert list(fineweb.texts(tmp_path / "a.parquet", "text")) == [b"one", b"two"]


@pytest.mark.parametrize("line", ["{", '{"txt": 1}', "[]"])
def test_fineweb_names_a_bad_line(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl, line 2"):
        fineweb.main(
            [
                "--file",
                str(tmp_path / "a.jsonl"),
                "--tokenizer",
                "byte",
                "--workers",
                "1",
                "--out",
                str(tmp_path / "out"),
            ]
        )


def test_fineweb_lists_and_fetches_the_sample(tmp_path, monkeypatch):
    asked = []
    listing = [{"path": f"sample/10BT/{i:03d}_00000.parquet"} for i in (1, 0)] + [{"path": "README.md"}]
    monkeypatch.setattr(fineweb, "require_network", lambda *_: None)
    monkeypatch.setattr(fineweb, "fetch_json", lambda url: asked.append(url) or listing)
    assert fineweb.parquet_urls("edu", "10B") == [
        f"https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu/resolve/main/sample/10BT/{i:03d}_00000.parquet"
        for i in (0, 1)
    ]
    assert asked == ["https://huggingface.co/api/datasets/HuggingFaceFW/fineweb-edu/tree/main/sample/10BT"]


# --- The source with a known entropy ---


def test_synthetic_entropy_is_that_of_its_symbols(tmp_path):
    synthetic.main(
        [
            "--out",
            str(tmp_path),
            "--vocab-size",
            "16",
            "--successors",
            "4",
            "--tokens",
            "600000",
            "--val-tokens",
            "1000",
        ]
    )
    facts = json.loads((tmp_path / "entropy.json").read_text())
    tokens = tokens_of(tmp_path, "synthetic", "train")
    content = shards.read_shard(tmp_path / "synthetic_val_000001.bin")
    assert (len(tokens), len(content.tokens)) == (600_000, 1000)
    assert (content.vocab_size, content.tokenizer, content.bytes) == (16, 0, 0)
    pairs = np.zeros((16, 16))
    np.add.at(pairs, (tokens[:-1], tokens[1:]), 1)
    q = pairs / pairs.sum(axis=1, keepdims=True)
    bigram = -(pairs * np.log(np.where(q > 0, q, 1))).sum() / pairs.sum()
    assert bigram == pytest.approx(facts["nats_per_token"], abs=0.003)
    p = np.bincount(tokens, minlength=16) / len(tokens)
    assert -(p * np.log(p)).sum() == pytest.approx(facts["unigram_nats_per_token"], abs=0.003)
    assert facts["bits_per_token"] == pytest.approx(facts["nats_per_token"] / math.log(2))


def test_synthetic_stationary_distribution_is_exact():
    chain = synthetic.make_chain(64, 8, np.random.RandomState(3))
    transitions = np.array([np.bincount(row, minlength=64) / 256 for row in chain.table])
    assert np.abs(chain.stationary @ transitions - chain.stationary).max() < 1e-15
    cycle = synthetic.make_chain(7, 1, np.random.RandomState(0))  # periodic and deterministic
    assert np.allclose(cycle.stationary, 1 / 7)
    assert cycle.nats_per_token == 0


def test_synthetic_numbers_never_move(tmp_path):
    synthetic.main(["--out", str(tmp_path), "--tokens", "5000", "--val-tokens", "1000"])
    facts = json.loads((tmp_path / "entropy.json").read_text())
    assert facts["nats_per_token"] == pytest.approx(1.6715624006126037, rel=1e-12)
    digest = hashlib.sha256((tmp_path / "synthetic_train_000001.bin").read_bytes()[1024:]).hexdigest()
    assert digest == "ff28ddd108f90698310c7e77921886c829806e30666db0fda6a89853ce54d796"
    synthetic.main(["--out", str(tmp_path / "other"), "--tokens", "5000", "--val-tokens", "1000", "--seed", "1"])
    assert (tokens_of(tmp_path, "synthetic", "train") != tokens_of(tmp_path / "other", "synthetic", "train")).any()
