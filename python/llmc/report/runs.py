"""One run or several: how they ended, curves, rules, configuration, provenance, samples."""

from __future__ import annotations

from collections.abc import Sequence

from llmc.log import finite
from llmc.plot.loss import View, highest, loss_figure
from llmc.plot.style import scheme_title
from llmc.progress import duration
from llmc.report.html import Cell, Node, el, more, preformatted, table
from llmc.report.options import configuration
from llmc.report.parts import NAME, Item, Page, Part, facts, verdict_box
from llmc.report.record import Record, outcome
from llmc.report.rules import rule_parts
from llmc.report.svg import figure_element
from llmc.wording import plural

POINTS = 2400  # of a curve: more than a screen has pixels beside each other
EARLIER = 20  # samples that are shown besides the last one
# options that have to be the same where validation losses are compared
COMPARED = ("val_data", "eval_tokens", "eval_batches", "eval_stride", "tokenizer", "vocab_size")


def runs_item(records: list[Record], page: Page) -> Item:
    alone = len(records) == 1
    item = Item(
        f"Run {records[0].name}" if alone else f"{len(records)} runs",
        records[0].name,
        model_text(records[0]) if alone else ", ".join(record.name for record in records),
        run_verdict(records[0]) if alone else [comparison(records)],
    )
    item.parts.append(Part("Curves", [*curves(records, page), *evaluations(records)]))
    item.parts.append(Part("Rules", rule_parts(records)))
    item.parts.append(Part("Configuration", configuration(records)))
    item.parts.append(Part("Provenance", [provenance(records)]))
    if any(record.of_kind("sample") for record in records):
        item.parts.append(Part("Samples", [node for record in records for node in samples(record, alone)]))
    item.parts.append(Part("Files", [node for record in records for node in files(record, page, alone)]))
    return item


def model_text(record: Record) -> str:
    """Scheme and shape of the model, as far as the log has them."""
    model, rules = record.part("model"), record.part("parametrization")
    names = {"num_layers": "depth", "channels": "width", "num_heads": "heads", "max_seq_len": "positions"}
    shape = [f"{name} {model[key]:,}" for key, name in names.items() if isinstance(model.get(key), int)]
    count = record.config_event.get("parameters")
    parts = [f"GPT-2 under {scheme_title(str(rules['scheme']))}" if "scheme" in rules else "", *shape]
    parts.append(f"{count:,} parameters" if isinstance(count, int) else "")
    return ", ".join(filter(None, parts))


# --- Verdicts ---


def number(value: object, form: str) -> str:
    """The value in this form; "" for what is no finite number."""
    found = finite(value)
    return "" if found is None else format(found, form)


def measures(record: Record) -> list[tuple[str, str, str]]:
    """Names, values and units of what a run came to; values that the log does not have are ""."""
    evaluation, best = record.evaluation, record.best
    at_end = not best or best["step"] == evaluation["step"]
    tokens = finite(record.last.get("tokens"))
    flops = record.run.flops_per_token
    choices = next(reversed(record.of_kind("hellaswag")), {})
    return [
        ("Validation loss", number(evaluation.get("val_loss"), ".4f"), "nats/token"),
        ("Bits per byte", number(evaluation.get("bits_per_byte"), ".4f"), ""),
        ("Lowest validation loss", "" if at_end else number(best["val_loss"], ".4f"), "nats/token"),
        ("at step", "" if at_end else f"{best['step']:,}", ""),
        ("HellaSwag accuracy", number(choices.get("acc"), ".4f"), ""),
        ("HellaSwag by tokens", number(choices.get("acc_norm_tokens"), ".4f"), ""),
        ("Last training loss", number(record.last.get("loss"), ".4f"), "nats/token"),
        ("Steps", f"{record.steps:,}", f"of {record.planned:,}" if record.planned else ""),
        ("Tokens", number(tokens, ",.0f"), ""),
        ("Compute", number(flops * tokens if flops and tokens else None, ".3g"), "FLOPs"),
        ("Time", "" if record.seconds is None else duration(record.seconds), ""),
        ("Median speed", number(record.speed, ",.0f"), "tokens/s"),
        ("Skipped updates", f"{record.skipped:,}" if record.skipped else "", ""),
        ("Resumed", plural(len(record.resumes), "time") if record.resumes else "", ""),
    ]


def run_verdict(record: Record) -> list[Node]:
    ended = outcome(record)
    return [
        verdict_box(ended.word, ended.look, ended.sentence),
        facts([fact for fact in measures(record) if fact[1]]),
    ]


def comparison(records: list[Record]) -> Node:
    """A row for each run."""
    found = [[*measures(record)] for record in records]
    shown = [i for i in range(len(found[0])) if any(row[i][1] for row in found)]
    units = [next((row[i][2] for row in found if row[i][2] and not row[i][2].startswith("of ")), "") for i in shown]
    head: list[Cell] = ["run", "ended"]
    head += [found[0][i][0].lower() + (f" ({unit})" if unit else "") for i, unit in zip(shown, units, strict=True)]
    lowest = lowest_of(records)
    rows: list[Sequence[Cell]] = []
    for record, row in zip(records, found, strict=True):
        ended = outcome(record)
        cells: list[Cell] = [record.name, el("span", ended.word.rstrip(":"), class_=ended.look)]
        for i in shown:
            best = record is lowest and row[i][0] == "Validation loss"
            cells.append(el("strong", f"{row[i][1]} (lowest)") if best else row[i][1] or "–")
        rows.append(cells)
    return table(head, [("", rows)], "How the runs ended")


def lowest_of(records: list[Record]) -> Record | None:
    """The run with the lowest last validation loss; None if these losses are not of the same data."""
    data = [[record.part("config").get(key) for key in COMPARED] for record in records]
    losses = {i: finite(record.evaluation.get("val_loss")) for i, record in enumerate(records)}
    known = {i: loss for i, loss in losses.items() if loss is not None}
    if len(known) < 2 or any(data[i] != data[min(known)] for i in known):
        return None
    return records[min(known, key=lambda i: known[i])]


# --- Curves ---


def curves(records: list[Record], page: Page) -> list[Node]:
    """Losses, learning rates and gradient norms of all runs over the same axis."""
    drawn = [r for r in records if any(finite(event.get("loss")) is not None for event in r.run.train.values())]
    if not drawn:
        return [el("p", "No step has a finite loss: there is nothing to draw.")]
    sizes = {round(tokens / r.steps) for r in drawn if (tokens := finite(r.last.get("tokens"))) is not None}
    axis = "tokens" if len(sizes) > 1 and all("tokens" in r.last for r in drawn) else "step"
    figure = loss_figure([r.run for r in drawn], View(axis, norms=True, points=POINTS))
    names = ", ".join(r.name for r in drawn)
    label = f"Loss, learning rate and gradient norm of {names} over {'tokens' if axis == 'tokens' else 'steps'}."
    return [figure_element(figure, page.next_figure(), label, caption(drawn, axis, sizes))]


def caption(records: list[Record], axis: str, sizes: set[int]) -> str:
    text = "Training loss of each step (thin), its moving average, and validation loss (circles); below, the learning "
    text += "rate and the gradient norm before clipping."
    if axis == "tokens":
        text += " Over tokens, because the runs have steps of different sizes."
    elif len(sizes) == 1:
        text += f" A step has {plural(min(sizes), 'token')}."
    losses = [finite(event.get("loss")) for record in records for event in record.run.train.values()]
    limit = highest([record.run for record in records])
    if max(loss for loss in losses if loss is not None) > limit:
        text += f" Losses above {limit:.3g}, half above the first ones, are outside of the axis."
    longest = max(len(record.run.train) for record in records)
    if longest > POINTS:
        text += (
            f" A curve has at most {POINTS:,} of its {longest:,} points: of each of {POINTS // 4:,} equal parts the "
            f"first, the least, the greatest and the last."
        )
    return text


def evaluations(records: list[Record]) -> list[Node]:
    """The validation losses as a table, with the accuracies of --hellaswag."""
    found: list[Node] = []
    for record in records:
        choices = {int(event["step"]): event for event in record.of_kind("hellaswag")}
        rows: list[Sequence[Cell]] = [
            [
                f"{step:,}",
                number(e.get("val_loss"), ".4f") or "not finite",
                number(e.get("bits_per_byte"), ".4f") or "–",
                *([number(choices.get(step, {}).get("acc"), ".4f") or "–"] if choices else []),
            ]
            for step, e in sorted(record.run.evals.items())
        ]
        if rows:
            head = ["step", "validation loss (nats/token)", "bits/byte", *(["HellaSwag accuracy"] if choices else [])]
            title = f"Evaluations of {record.name}"
            found.append(more(f"{title} ({len(rows)})", table(head, [("", rows)], title)))
    return found


# --- Provenance, samples, files ---


def provenance(records: list[Record]) -> Node:
    """What made the run, a column for each."""
    columns = []
    for record in records:
        entries = {key: str(value) for key, value in record.part("provenance").items() if value not in ("", None)}
        entries["command"] = str(record.config_event.get("command") or "")
        entries["seed"] = str(record.part("config").get("seed", ""))
        entries["resumed from"] = ", ".join(str(event["resumed_from"]) for event in record.resumes)
        columns.append(entries)
    keys = list(dict.fromkeys(key for entries in columns for key in entries))
    rows: list[Sequence[Cell]] = [
        [key.replace("_", " "), *(el("code", entries[key]) if entries.get(key) else "–" for entries in columns)]
        for key in keys
        if any(entries.get(key) for entries in columns)
    ]
    if not rows:
        return el("p", "The log does not say what wrote it.")
    result = table(["fact", *(record.name for record in records)], [("", rows)], "What made the run")
    result[0].set("class", "wrap")
    return result


def samples(record: Record, alone: bool) -> list[Node]:
    """The last sample; earlier ones can be opened."""
    events = record.of_kind("sample")
    if not events:
        return []
    *earlier, last = events
    head = [] if alone else [el("h4", record.name)]
    found: list[Node] = [*head, *sample(last)]
    if earlier:
        shown = earlier[-EARLIER:]
        left_out = f", the last {EARLIER} of {len(earlier):,}" if len(earlier) > EARLIER else ""
        opened = [node for event in reversed(shown) for node in sample(event)]
        found.append(more(f"Earlier samples{left_out} ({len(shown)})", *opened))
    return found


def sample(event: dict[str, object]) -> list[Node]:
    prompt, text = str(event.get("prompt") or ""), str(event.get("text") or "")
    parts: list[Node] = [el("strong", prompt), text] if prompt else [text]
    when = f"At step {event['step']:,}" + (", after the prompt in bold:" if prompt else ":")
    return [el("p", when), preformatted(*parts)]


def files(record: Record, page: Page, alone: bool) -> list[Node]:
    folder = record.folder
    saved = sorted((folder / "checkpoints").glob("*"))
    paths = [
        *(folder / name for name in ("log.jsonl", "loss.png", NAME)),
        *(path for path in saved if not path.name.startswith(".")),
    ]
    links = page.links(paths)
    head: list[Node] = [] if alone else [el("h4", record.name)]
    return [*head, *(links or [el("p", "none")])]
