"""What a run was and how it ended, from its log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from llmc.log import Event, Run, finite, read_log
from llmc.plot.loss import name_runs
from llmc.wording import plural


class Outcome(NamedTuple):
    """word: of the verdict; look: its class of style; sentence: goes on after the word."""

    word: str
    look: str
    sentence: str


@dataclass
class Record:
    """A run with the events of its log."""

    run: Run
    folder: Path

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def config_event(self) -> Event:
        """The newest: of the program that continued the run."""
        return next((e for e in reversed(self.run.others) if e["event"] == "config"), {})

    def part(self, name: str) -> dict[str, Any]:
        """An object of the config event: config, model, parametrization, provenance; {} if it has none."""
        value = self.config_event.get(name)
        return value if isinstance(value, dict) else {}

    @property
    def final(self) -> Event:
        """The last event of a run that has ended; {} of one that goes on, or was killed."""
        last = next((e for e in reversed(self.run.others) if e["event"] in ("config", "final")), {})
        return last if last.get("event") == "final" else {}

    def of_kind(self, kind: str) -> list[Event]:
        return [event for event in self.run.others if event["event"] == kind]

    @property
    def steps(self) -> int:
        return max(self.run.train)

    @property
    def planned(self) -> int:
        """Steps it was to do; 0: unknown."""
        value = self.part("config").get("steps")
        return value if isinstance(value, int) and value > 0 else 0

    @property
    def last(self) -> Event:
        return self.run.train[self.steps]

    @property
    def evaluation(self) -> Event:
        """The last one with a finite loss."""
        found = [e for _, e in sorted(self.run.evals.items()) if finite(e.get("val_loss")) is not None]
        return found[-1] if found else {}

    @property
    def best(self) -> Event:
        found = [e for _, e in sorted(self.run.evals.items()) if finite(e.get("val_loss")) is not None]
        return min(found, key=lambda event: float(event["val_loss"]), default={})

    @property
    def seconds(self) -> float | None:
        """With all programs that continued it."""
        ends = [self.final, self.evaluation, self.last]
        times = [time for time in (finite(event.get("elapsed")) for event in ends) if time is not None]
        return max(times, default=None)

    @property
    def speed(self) -> float | None:
        """The median of the steps in tokens/s."""
        speeds = [finite(event.get("tokens_per_second")) for event in self.run.train.values()]
        known = [speed for speed in speeds if speed is not None]
        return median(known) if known else None

    @property
    def skipped(self) -> int:
        return sum(bool(event.get("skipped")) for event in self.run.train.values())

    @property
    def resumes(self) -> list[Event]:
        return [event for event in self.of_kind("config") if event.get("resumed_from") is not None]


def read_records(paths: list[Path]) -> list[Record]:
    """The runs, named by their folders. DataError if one has no training step."""
    runs = [read_log(path, finite_loss=False) for path in paths]
    records = [Record(run, Path(run.name).parent) for run in runs]
    name_runs(runs)
    return records


def outcome(record: Record) -> Outcome:
    """How the run ended, in a sentence."""
    step, planned, reason = record.steps, record.planned, record.final.get("reason")
    of = f" of {planned:,}" if planned else ""
    if reason == "diverged" or (not reason and finite(record.last.get("loss")) is None):
        return Outcome("Diverged", "bad", f"at step {step:,}{of}: {divergence(record)}.")
    result = result_text(record)
    if reason == "done":
        return Outcome("Done", "good", f"after {plural(step, 'step')}: {result}.")
    if reason == "early_stop":
        limit = record.final.get("early_stop")
        why = f"{plural(limit, 'evaluation')} without a lower validation loss" if isinstance(limit, int) else ""
        return Outcome("Stopped early", "good", f"at step {step:,}{of}{', after ' * bool(why)}{why}: {result}.")
    if reason == "signal":
        return Outcome("Stopped", "open", f"by a signal after step {step:,}{of}: {result}.")
    return Outcome("Unfinished:", "open", f"the log ends at step {step:,}{of}; {result}.")


def divergence(record: Record) -> str:
    """What became infinite or NaN."""
    if finite(record.last.get("loss")) is None:
        return "the loss became infinite or NaN"
    if finite(record.last.get("grad_norm")) is None:
        return "the gradient norm became infinite or NaN"
    return "a loss or a gradient norm became infinite or NaN"


def result_text(record: Record) -> str:
    """The last validation loss, or training loss: "validation loss 2.1513 nats/token, 3.1039 bits/byte"."""
    val, bits = finite(record.evaluation.get("val_loss")), finite(record.evaluation.get("bits_per_byte"))
    if val is not None:
        at = int(record.evaluation["step"])
        return (
            f"validation loss {val:.4f} nats/token"
            + (f", {bits:.4f} bits/byte" if bits is not None else "")
            + (f" at step {at:,}" if at != record.steps else "")
        )
    loss = finite(record.last.get("loss"))
    return "no loss" if loss is None else f"training loss {loss:.4f} nats/token at the last step, not evaluated"
