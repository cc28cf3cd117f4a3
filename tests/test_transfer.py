"""The long invariants (make test-slow), on the program: under muP the best learning rate of a small model is also that
of a wide model, and wider is never worse; under SP neither is true.
"""

import json
import subprocess

import pytest
from program import BACKEND, BINARY, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BINARY.exists() or BACKEND != "cpu", reason="not built: run make train_gpt2"),
]


@pytest.fixture(scope="module")
def transfer(tmp_path_factory):
    """scripts/mup_transfer.sh with two seeds and the learning rates around the optima."""
    out = tmp_path_factory.mktemp("transfer")
    done = subprocess.run(
        ["env", f"OUT={out}", "SEEDS=1 2", "VALUES=2^-11 2^-10 2^-9 2^-8 2^-7 2^-6 2^-5", "scripts/mup_transfer.sh"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    return done, json.loads((out / "sweep.json").read_text())


def test_the_learning_rate_transfers(transfer):
    """At eight times the base width: regret at most 0.02 nats under muP; under SP at least three times as much."""
    done, result = transfer
    assert done.returncode == 0 and "verdict: PASS" in done.stdout, done.stdout[-3000:] + done.stderr[-2000:]
    sp, mup = ({row["scale"]: row for row in result["schemes"][scheme]} for scheme in ("sp", "mup"))
    assert mup[256]["regret"] <= 0.02 and sp[256]["regret"] >= max(0.05, 3 * mup[256]["regret"])
    assert all(abs(row["drift_octaves"]) <= 1 for row in mup.values()) and sp[256]["drift_octaves"] <= -2


def test_wider_is_never_worse(transfer):
    """Under muP the next width is not more than 0.005 nats worse in any window of 50 steps; under SP it is."""
    worst = {name: max(row["worst_rise"] for row in rows) for name, rows in transfer[1]["wider"].items()}
    assert worst["mup"] <= 0.005 and worst["sp"] > 0.05
