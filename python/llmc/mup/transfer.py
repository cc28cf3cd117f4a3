"""Learning-rate transfer in one command: tunes the learning rate of a small GPT-2 (width 32), uses it at two, four and
eight times the width under the standard parametrization (SP) and under muP, and reports the cost compared with tuning
each width.

  scripts/mup_transfer.sh [--dry-run]        in a clone
  llmc transfer [--dry-run]                  the same, relative to the current folder

Protocol: scripts/mup_sweep.toml, 200 steps of 512 tokens with a cosine schedule, nine learning rates a factor of two
apart, three seeds. SP and muP are the same model at width 32, bit for bit. The best learning rate of width 32 is
transferred; its regret at a width is its loss there minus the lowest loss of the grid at that width (the same grid at
all widths). Losses are those of the validation data after the last step, the same 25,600 tokens for every run. With a
learning rate that decays to zero they vary as little as the mean of the last 50 training steps (used with LOSS=train).
With a constant learning rate (EXTRA="--schedule constant") they vary more, and the best rate of width 32 is less
distinct. PASS: at width 256 muP's regret is at most 0.02 nats, and SP's is larger than that and at least three times
muP's.

The options of scripts/mup_sweep.sh and its variables, listed below, work here too; a second call continues where the
first one stopped. The results are runs/mup_transfer/sweep.csv, .json, .png (loss against learning rate), wider.png
(training curves) and a page of them, report.html.
Exit codes: 0 PASS; 1 FAIL, or runs failed; 2 wrong usage; 6 UNDECIDED; 130, 143 interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmc.errors import UsageError
from llmc.mup.sweep_jobs import LR
from llmc.mup.variables import SWEEP_HELP

DEFAULTS = {
    "SCALES": "32 64 128 256",
    "SEEDS": "3",
    "PARAMETRIZATIONS": "sp mup",
    "VALUES": LR,
    "OUT": "runs/mup_transfer",
}


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """The variables of the sweep: those that are given, and the protocol's for the rest."""
    if env.get("SCALE", "width") not in ("", "width"):
        raise UsageError(
            f"SCALE is {env['SCALE']}, and a transfer compares widths: run llmc sweep lr --verdict instead"
        )
    return {**env, "SCALE": "width"} | {name: env.get(name) or default for name, default in DEFAULTS.items()}


def transfer_help() -> str:
    """The variables of the sweep, with the defaults of this command."""
    lines = [line for line in SWEEP_HELP.splitlines() if not line.startswith("  SCALE ")]
    return "\n".join(lines).replace("runs/sweep_AXIS_SCALE", DEFAULTS["OUT"]).replace("of the axis, ", "of the lr, ")
