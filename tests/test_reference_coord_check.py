"""train_gpt2.py's --coord-check: every number of its CSV recomputed from outside the model."""

import csv

import pytest
import torch
from measures import deviation, mean_abs
from reference_tools import ALL, MUP, TINY, initialise, losses, main, model_with, run

from llmc.checkpoint import open_checkpoint
from llmc.data.windows import Dataset

pytestmark = pytest.mark.usefixtures("one_thread")


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def by_hooks(model, tokens, targets):
    """Activations and gradients from outside the model: PyTorch's hooks, and q.k computed again."""
    seen, handles = {}, []
    for name, module in model.named_modules():
        handles.append(module.register_forward_hook(lambda _, x, y, name=name: seen.__setitem__(name, (x[0], y))))
    model.zero_grad()
    model(tokens, targets).backward()
    for handle in handles:
        handle.remove()
    out = {"embedding": seen["h.0"][0], "ln_f": seen["ln_f"][1]}
    W = (model.lm_head or model.wte).weight[: model.shape.vocab_size]
    out["logits"] = seen["ln_f"][1] @ W.T * model.scales["output"]
    T, D = tokens.shape[1], model.shape.head_dim
    for i in range(model.shape.depth):
        h = f"h.{i}"
        q, k, v = seen[f"{h}.attn.c_attn"][1].chunk(3, 2)
        q, k = (x.unflatten(2, (-1, D)).transpose(1, 2) for x in (q, k))
        s = q @ k.transpose(2, 3) * model.scales["attention"]
        out |= {
            f"{h}.attn.q": q,
            f"{h}.attn.k": k,
            f"{h}.attn.v": v,
            f"{h}.resid_mlp": seen[h][1],
            f"{h}.attn.logits": torch.cat([s[..., t, : t + 1].flatten() for t in range(T)]),
            f"{h}.attn": seen[f"{h}.attn.c_proj"][0],
            f"{h}.mlp.gelu": seen[f"{h}.mlp.c_proj"][0],
        }
        skip, branch = model.scales["residual"][2 * i][:2]
        out[f"{h}.resid_attn"] = skip * seen[h][0] + branch * seen[f"{h}.attn.c_proj"][1]
        out |= {
            f"{h}.{name}": seen[f"{h}.{name}"][1] for name in ("ln_1", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
        }
    activations = {("activation", name): x.detach() for name, x in out.items()}
    weights = {
        (kind, r["name"]): (p.detach() if kind == "parameter" else p.grad)[: r["shape"][0]].clone()
        for r, p in model.named_rules()
        for kind in ("parameter", "gradient")
    }
    return activations | weights


@pytest.mark.parametrize("recompute", ["none", "block"])
@pytest.mark.parametrize("scheme", ["sp", *ALL])
def test_coordinate_check(data, tmp_path, scheme, recompute):
    options = [
        *data,
        *TINY,
        *(ALL.get(scheme) or ["--parametrization", scheme]),
        "--overfit-single-batch",
        "--schedule",
        "constant",
        "--threads",
        1,
        "--recompute",
        recompute,
    ]
    plain = run(tmp_path / "two", *options, "--steps", 2)
    checked = run(tmp_path / "three", *options, "--steps", 3, "--coord-check", tmp_path / "a.csv")
    assert losses(checked)[:2] == losses(plain)  # observing changes nothing
    text = (tmp_path / "a.csv").read_text().splitlines()
    assert text[0] == (
        "program,parametrization,base_width,width,base_depth,depth,heads,seed,lr,step,kind,tensor,role,"
        "multiplier,mean_abs,std,delta"
    )
    rows = {(int(r["step"]), r["kind"], r["tensor"]): r for r in rows_of(tmp_path / "a.csv")}
    model = model_with(*options, "--vocab-size", "257")
    count = len(model.rules["tensors"])
    assert len(rows) == len(text) - 1 == 3 * (3 + 2 * 13 + 2 * count)
    batch = torch.from_numpy(Dataset(data[1], 16, shuffle=False).rows(range(2), 257))
    tokens, targets = batch[:, :-1], batch[:, 1:]
    initialise(model, 42)
    first = by_hooks(model, tokens, targets)
    model.set_weights(open_checkpoint(tmp_path / "two").values)
    third = by_hooks(model, tokens, targets)
    rules = {r["name"]: r for r in model.rules["tensors"]}
    assert {key[1:] for key in rows} == first.keys()
    for (kind, name), x in third.items():
        for step, values in ((1, first[kind, name].double()), (3, x.double())):
            row = rows[step, kind, name]
            change = mean_abs(values - first[kind, name].double())
            assert float(row["mean_abs"]) == pytest.approx(mean_abs(values), rel=1e-4, abs=1e-9), (kind, name)
            assert float(row["std"]) == pytest.approx(deviation(values), rel=1e-3, abs=1e-7), (kind, name)
            assert (
                row["delta"] == ""
                if kind == "gradient"
                else float(row["delta"]) == pytest.approx(change, rel=1e-3, abs=1e-8)
            ), (kind, name)
            role, multiplier = ("", 1) if kind == "activation" else (rules[name]["role"], rules[name]["multiplier"])
            assert (row["role"], float(row["multiplier"])) == (role, pytest.approx(multiplier, rel=1e-6))
    assert any(float(rows[3, "activation", f"h.0.{name}"]["delta"]) > 1e-4 for name in ("attn", "mlp.gelu"))
    base = {"sp": ("32", "2"), "u-mup": ("32", "2"), "completep": ("16", "1")}.get(scheme, ("16", "2"))
    assert [
        row[key]
        for key in ("program", "parametrization", "base_width", "width", "base_depth", "depth", "heads", "seed", "lr")
    ] == ["train_gpt2.py", scheme, base[0], "32", base[1], "2", "2", "42", "0.01"]


def test_coordinate_check_in_bf16_and_where_it_cannot_write(data, tmp_path, capsys):
    common = [*data, *TINY, *MUP["mup"], "--overfit-single-batch", "--steps", 2]
    run(tmp_path / "a", *common, "--dtype", "bf16", "--coord-check", tmp_path / "a.csv")
    rows = {(r["step"], r["kind"], r["tensor"]): float(r["mean_abs"]) for r in rows_of(tmp_path / "a.csv")}
    assert rows["1", "activation", "h.0.attn.logits"] == 0  # queries start at 0
    assert rows["2", "activation", "h.0.mlp.c_fc"] > 0
    missing = str(tmp_path / "nowhere/b.csv")
    assert main([*map(str, common), "--coord-check", missing, "--out", str(tmp_path / "b")]) == 1
    assert f"cannot write to --coord-check {missing}" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
