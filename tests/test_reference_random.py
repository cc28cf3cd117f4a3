"""Random numbers, data order and sampling of train_gpt2.py."""

import math

import numpy as np
import pytest
import torch
from measures import deviation
from shards import write_shard

from llmc.data.windows import Dataset
from llmc.random import draw, normals, philox, stream_of
from llmc.sampling import Choice, NotFinite, choose_token
from train_gpt2 import stochastic_bf16

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    """Random123's vectors, on Python ints, numpy and torch."""
    assert philox(counter, key) == expected
    assert tuple(int(x[0]) for x in philox([np.array([c], dtype=np.uint64) for c in counter], key)) == expected
    assert tuple(int(x[0]) for x in philox([torch.tensor([c]) for c in counter], key)) == expected


def test_counter_layout():
    assert draw(2**40 + 5, 3, 7, 2**33 + 9) == philox((9, 2, 3, 7), (5, 256))
    assert stream_of("") == 0x811C9DC5
    assert stream_of("a") == 0xE40C292C  # the published FNV-1a vectors
    assert stream_of("foobar") == 0xBF9CF968


def test_normals():
    """Box-Muller by hand for the first four; and the value does not depend on the count."""
    x = [(v + 0.5) / 2**32 for v in draw(42, 1, stream_of("wte.weight"), 0)]
    r, angle = math.sqrt(-2 * math.log(x[0])), 2 * math.pi * x[1]
    s, turn = math.sqrt(-2 * math.log(x[2])), 2 * math.pi * x[3]
    expected = [r * math.cos(angle), r * math.sin(angle), s * math.cos(turn), s * math.sin(turn)]
    z = normals(42, "wte.weight", 200_003)
    assert np.allclose(z[:4], expected, rtol=1e-15)
    assert (normals(42, "wte.weight", 7) == z[:7]).all()
    assert abs(z.mean()) < 0.01  # float64
    assert abs(deviation(z) - 1) < 0.01


def test_stochastic_rounding_is_unbiased_and_exact():
    x = torch.full((40000,), 1 + 2**-9)  # a quarter of the way from 1 to the next bf16
    y = stochastic_bf16(x, 42, "w", 3).float()
    assert set(y.unique().tolist()) == {1.0, 1 + 2**-7}
    assert abs((y > 1).double().mean().item() - 0.25) < 0.01
    exact = torch.tensor([0.0, 1.5, -2.0, math.inf])
    assert torch.equal(stochastic_bf16(exact, 42, "w", 3).float(), exact)
    low16 = [int(v) & 0xFFFF for v in draw(42, 4, stream_of("w"), (3 << 40) + 1)]  # elements 4..7
    assert [(v + 2**14) >> 16 for v in low16] == [int(v > 1) for v in y[4:8]]


def test_choose_token():
    logits = np.array([1.0, 3.0, 3.0, 2.0], dtype=np.float32)
    one, all_of_them = Choice(temperature=1, top_k=1), Choice(temperature=1)
    assert choose_token(logits, [], Choice(temperature=0), 0.9) == 1
    assert choose_token(logits, [], one, 0.99) == 1  # ties go to the lower index
    assert choose_token(logits, [], Choice(temperature=1, top_k=2), 0.51) == 2
    p = np.exp(logits.astype(float))
    assert [choose_token(logits, [], all_of_them, u) for u in (0.001, 0.999)] == [0, 3]
    assert choose_token(logits, [], all_of_them, (p[0] + 0.01) / p.sum()) == 1
    for value in (np.nan, np.inf, -np.inf):
        for temperature in (0, 1):
            with pytest.raises(NotFinite, match="logits are not finite"):
                choose_token(np.append(logits, np.float32(value)), [], Choice(temperature=temperature), 0.5)


def test_data_order(data):
    a, b = (Dataset(data[1], 16, seed=42) for _ in range(2))
    n = a.windows
    assert n == sum(a.windows_of)
    order = [a.locate(s) for s in range(2 * n)]
    everything = {(shard, window) for shard in range(3) for window in range(a.windows_of[shard])}
    assert set(order[:n]) == set(order[n:]) == everything
    assert order[:n] != order[n:]
    assert [b.locate(s) for s in reversed(range(2 * n))] == order[::-1]  # no state except the sample's number
    whole = a.rows(range(24), 257)
    assert np.array_equal(whole, np.concatenate([a.rows(range(i, i + 4), 257) for i in range(0, 24, 4)]))
    row = a.rows(range(5, 6), 257)[0]
    shard, window = order[5]
    raw = np.fromfile(a.paths[shard], dtype="<u2", offset=1024)[window * 16 : window * 16 + 17]
    assert row.tolist() == raw.tolist()
    keys = [
        x0 | x1 << 32 for x0, x1, _, _ in (draw(42, 3, 1 * 65536 + 2, i) for i in range(a.windows_of[2]))
    ]  # epoch 1, shard 2
    assert a.window_order(1, 2).tolist() == sorted(range(len(keys)), key=keys.__getitem__)
    in_file_order = Dataset(data[1], 16, shuffle=False)
    assert [in_file_order.locate(s) for s in range(3)] == [(0, 0), (0, 1), (0, 2)]


def test_uint32_shards(tmp_path):
    path = write_shard(tmp_path / "a.bin", np.arange(70000), 100000, "unknown")
    rows = Dataset(str(path), 10, shuffle=False).rows(range(6900, 6901), 100000)
    assert rows.tolist() == [list(range(69000, 69011))]
