"""The C++ program against train_gpt2.py: rules, initial weights, data order, logits, gradients, 20 steps, checkpoints.

Gradients are compared before the optimizer, because Adam would hide a wrong scale. Tolerances: fp32 results differ by
the order of sums (about 1e-6 relative here; 1e-4 allowed over 20 steps). In bf16 the programs round at different
places (PyTorch rounds weight gradients to bf16, this program keeps them in fp32; attention probabilities likewise),
2^-9 = 0.2% each time.
"""

import numpy as np
import pytest
import torch
from measures import norm, relative_error
from program import BACKEND, BINARY, DEVICE, checkpoints, last_wins, log, losses, run, tensors
from reference_tools import model_with, resolved
from shards import random_text, write_text_shards

import llmc
import train_gpt2 as reference

pytestmark = pytest.mark.skipif(
    not BINARY.exists() or BACKEND not in llmc.backends(), reason="not built: run make train_gpt2 module"
)

SHAPE = {"depth": 2, "width": 64, "heads": 4, "seq_len": 40, "batch_size": 4, "vocab_size": 257}
SCHEMES = {"sp": {"parametrization": "sp"}} | {
    f"mup x{ratio}": {"parametrization": "mup", "base_width": int(64 / ratio)} for ratio in (0.5, 1, 4)
}
SCHEMES |= {
    "table 3": {"parametrization": "mup-table3", "base_width": 16},
    "table 9": {"parametrization": "mup-table9", "base_width": 16},
    "completep": {"parametrization": "completep", "base_width": 16, "base_depth": 1, "depth_alpha": 0.75},
    "u-mup": {"parametrization": "u-mup"},
}
# Options of each scheme: multipliers other than 1, so that a missing one is noticed.
MULTIPLIERS = {"output_mult": 1.7, "embed_mult": 1.3, "attn_mult": 2.9}
UNIT_MULTIPLIERS = {
    "ffn_act_mult": 1.3,
    "attn_softmax_mult": 1.9,
    "residual_mult": 0.7,
    "residual_attn_ratio": 1.4,
    "loss_softmax_mult": 1.2,
}
TYINGS = [
    (scheme, tied)
    for scheme in SCHEMES
    for tied in (True, False)
    if not (tied and scheme in ("table 3", "u-mup"))  # these have no tied form
]


def command_line(options):
    """{"tie_embeddings": False, "lr": 0.1} -> ["--no-tie-embeddings", "--lr", "0.1"]"""
    words = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


def run_reference(*arguments):
    """train_gpt2.py in this process: importing PyTorch takes longer than the runs."""
    assert reference.main(last_wins([*arguments, "--device", DEVICE, "--threads", 1])) == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    train = write_text_shards(folder, random_text(30_000), shards=3, prefix="train")
    val = write_text_shards(folder, random_text(3_000, seed=1), shards=1, prefix="val")
    return ["--train-data", train, "--val-data", val]


# --- Rules ---------------------------------------------------------------------------------------------------------

RULES = [
    {"parametrization": "sp"},
    {"parametrization": "sp", "optimizer": "sgd", "weight_decay_mode": "independent", "tie_embeddings": False},
    {"parametrization": "mup", "base_width": 64},
    {
        "parametrization": "mup",
        "base_width": 16,
        "attn_mult": 3.0,
        "output_mult": 2.5,
        "embed_mult": 7.0,
        "init_std": 0.3,
    },
    {"parametrization": "mup", "base_width": 128, "tie_embeddings": True},
    {"parametrization": "mup", "base_width": 48, "zero_init_query": False, "zero_init_head": False},
    {"parametrization": "mup", "base_width": 16, "base_heads": 4, "optimizer": "sgd"},
    {"parametrization": "mup", "base_width": 16, "scale_eps": False, "weight_decay_mode": "independent"},
    {"parametrization": "mup-table3", "base_width": 16, "output_mult": 2.5, "zero_init_head": False},
    {"parametrization": "mup-table3", "base_width": 48, "optimizer": "sgd"},
    {"parametrization": "mup-table9", "base_width": 16, "tie_embeddings": True, "embed_mult": 7.0},
    {"parametrization": "mup-table9", "base_width": 48, "optimizer": "sgd", "weight_decay_mode": "independent"},
    {"parametrization": "completep", "base_width": 16, "base_depth": 1},
    {"parametrization": "completep", "base_width": 48, "base_depth": 8, "depth_alpha": 0.5, "tie_embeddings": True},
    {"parametrization": "completep", "base_width": 16, "base_depth": 6, "depth_alpha": 0.6, "optimizer": "sgd"},
    {"parametrization": "u-mup"},
    {"parametrization": "u-mup", "optimizer": "sgd", "weight_decay_mode": "independent", "zero_init_head": True},
    {"parametrization": "u-mup", "depth": 5, "total_batch_size": 640} | UNIT_MULTIPLIERS,
]


@pytest.mark.parametrize("options", RULES, ids=str)
def test_rule_tables_agree(options):
    options = SHAPE | {"lr": 0.0123, "weight_decay": 0.1} | options
    ours = llmc.backend(BACKEND).parametrization(**options)
    theirs = reference.parametrization(*resolved(*command_line(options)))
    assert [t["name"] for t in ours["tensors"]] == [t["name"] for t in theirs["tensors"]]
    assert list(ours) == list(theirs)
    for key in ("scheme", "base_width", "base_head_dim", "width_mult", "base_depth", "depth_mult"):
        assert ours[key] == theirs[key], key
    assert list(ours["scales"]) == list(theirs["scales"])
    for key, value in ours["scales"].items():  # floats: the last bit may differ
        np.testing.assert_allclose(value, theirs["scales"][key], rtol=1.2e-7, err_msg=key)
    for a, b in zip(ours["tensors"], theirs["tensors"], strict=True):
        assert (a["role"], a["shape"], a["zero_rows"]) == (b["role"], list(b["shape"]), b["zero_rows"]), a["name"]
        for key in ("init_mean", "init_std", "lr", "weight_decay", "eps"):
            assert a[key] == pytest.approx(b[key], rel=1e-12), (a["name"], key)
        for key in ("multiplier", "dinp_multiplier", "dweight_multiplier"):
            assert a[key] == pytest.approx(b[key], rel=1.2e-7), (a["name"], key)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_mup_at_the_base_width_is_sp_bit_for_bit(data, tmp_path, optimizer, tied):
    switches = {
        "tie_embeddings": tied,
        "zero_init_query": True,
        "zero_init_head": not tied,
        "optimizer": optimizer,
        "lr": 0.01 if optimizer == "adamw" else 0.3,
        "weight_decay": 0.1,
    }
    options = [*data, *command_line(SHAPE | switches), "--steps", 20, "--threads", 1]
    run(*options, "--out", tmp_path / "sp")
    run(*options, "--parametrization", "mup", "--base-width", 64, "--out", tmp_path / "mup")
    assert losses(tmp_path / "sp") == losses(tmp_path / "mup")
    a, b = tensors(checkpoints(tmp_path / "sp")[0]), tensors(checkpoints(tmp_path / "mup")[0])
    assert all(np.array_equal(a[name], b[name]) for name in a)


# --- Initial weights and data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_initial_weights_agree(data, tmp_path, scheme):
    """Drawn by both programs from the same counters: equal up to the last bit of a logarithm or a cosine."""
    options = [*data, *command_line(SHAPE | SCHEMES[scheme]), "--seed", 7, "--steps", 0]
    run(*options, "--out", tmp_path / "ours")
    run_reference(*options, "--out", tmp_path / "theirs")
    a, b = tensors(checkpoints(tmp_path / "ours")[0]), tensors(checkpoints(tmp_path / "theirs")[0])
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=2e-7, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    "extra", [[], ["--no-shuffle"], ["--overfit-single-batch"], ["--total-batch-size", 320, "--seed", 3]], ids=str
)
def test_data_order_agrees(data, tmp_path, extra):
    """With a learning rate of 0 the losses identify the batches; more than one epoch."""
    options = [*data, *command_line(SHAPE), "--lr", 0, "--steps", 200, "--width", 8, "--heads", 1, "--depth", 1, *extra]
    run(*options, "--threads", 1, "--out", tmp_path / "ours")
    run_reference(*options, "--out", tmp_path / "theirs")
    np.testing.assert_allclose(losses(tmp_path / "ours"), losses(tmp_path / "theirs"), rtol=1e-5)
    if "--overfit-single-batch" not in extra:
        assert len({f"{loss:.6f}" for loss in losses(tmp_path / "ours")}) > 100


# --- Logits and gradients --------------------------------------------------------------------------------------------


def both_models(options, seed=0):
    """One model in each program with the same weights, all different from their initial values, also the zeros."""
    ours = llmc.backend(BACKEND).GPT2(logits_rows=64, **options)
    theirs = model_with(*command_line(options))
    rng = np.random.default_rng(seed)
    for rule, parameter in theirs.named_rules():
        gain = 1.0 if "ln_" in rule["name"] and rule["name"].endswith("weight") else 0.0
        values = (gain + rng.normal(0, 0.1, rule["shape"])).astype(np.float32)
        if options.get("dtype") == "bf16":  # values that are exact in bf16
            values = torch.from_numpy(values).bfloat16().float().numpy()
        ours.set_parameter(rule["name"], values)
        with torch.no_grad():
            parameter[: rule["shape"][0]] = torch.from_numpy(values)
    if options.get("dtype") == "bf16":
        theirs.round_copies()
    return ours, theirs


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("scheme, tied", TYINGS)
def test_logits_and_every_gradient(scheme, tied, dtype):
    options = (
        SHAPE
        | SCHEMES[scheme]
        | (UNIT_MULTIPLIERS if scheme == "u-mup" else MULTIPLIERS)
        | {"tie_embeddings": tied, "dtype": dtype}
    )
    ours, theirs = both_models(options)
    rng = np.random.default_rng(1)
    tokens, targets = rng.integers(0, 257, (2, 4, 33), dtype=np.int32)
    tolerance = 2e-5 if dtype == "fp32" else 3e-2

    with torch.no_grad():
        last = theirs(torch.from_numpy(tokens).long()).numpy()
    assert relative_error(ours.forward(tokens)[:, -1], last) < tolerance

    loss = theirs(torch.from_numpy(tokens).long(), torch.from_numpy(targets).long())
    loss.backward()
    assert ours.forward(tokens, targets) == pytest.approx(loss.item(), rel=tolerance / 10)
    assert ours.backward() == pytest.approx(loss.item(), rel=tolerance / 10)
    gradients = ours.gradients()
    for rule, parameter in theirs.named_rules():
        expected = parameter.grad[: rule["shape"][0]].numpy()
        error = relative_error(gradients[rule["name"]], expected)
        ratio = norm(gradients[rule["name"]]) / norm(expected)
        assert error < tolerance, f"{rule['name']}: {error:.2e}; ratio of norms {ratio:.4f}"
        assert np.all(parameter.grad[rule["shape"][0] :].numpy() == 0), "padding rows get no gradient"


def test_activations_are_announced_under_their_names():
    ours, theirs = both_models(SHAPE)
    rng = np.random.default_rng(1)
    tokens, targets = rng.integers(0, 257, (2, 4, 33), dtype=np.int32)
    seen = ours.activations(tokens, targets)
    expected = {}
    for name, module in theirs.named_modules():
        module.register_forward_hook(
            lambda _, __, out, name=name: (
                expected.__setitem__(name, out.detach().reshape(-1, out.shape[-1]).numpy()) if out.dim() > 1 else None
            )
        )
    theirs(torch.from_numpy(tokens).long(), torch.from_numpy(targets).long())
    for i in range(2):
        for name in (f"h.{i}.ln_1", f"h.{i}.attn.c_attn", f"h.{i}.ln_2", f"h.{i}.mlp.c_fc"):
            assert relative_error(seen[name], expected[name]) < 1e-5, name
        assert relative_error(seen[f"h.{i}.resid_mlp"], expected[f"h.{i}"]) < 1e-5
    assert relative_error(seen["ln_f"], expected["ln_f"]) < 1e-5
    assert seen["logits"].shape == (4 * 33, 384 if BACKEND != "cpu" else 288)


# --- Twenty steps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("scheme, tied", TYINGS)
def test_twenty_steps(data, tmp_path, scheme, tied, dtype):
    """From one checkpoint, with accumulation, weight decay, clipping, warm-up and cosine."""
    options = [
        *data,
        *command_line(SHAPE | SCHEMES[scheme] | {"tie_embeddings": tied, "dtype": dtype}),
        *"--warmup-steps 5 --weight-decay 0.1 --grad-clip 0.5 --total-batch-size 320 --final-lr-frac 0.1".split(),
        "--lr",
        # at half the base width a step changes a block twice as much; u-mup's rates have another scale
        {"mup x0.5": 0.001, "u-mup": 0.2}.get(scheme, 0.002),
    ]
    run(*options, "--steps", 0, "--out", tmp_path / "start")
    options += ["--init", checkpoints(tmp_path / "start")[0], "--steps", 20, "--eval-every", 10]
    run(*options, "--threads", 1, "--out", tmp_path / "ours")
    run_reference(*options, "--out", tmp_path / "theirs")
    tolerance = 1e-4 if dtype == "fp32" else 1e-2
    np.testing.assert_allclose(losses(tmp_path / "ours"), losses(tmp_path / "theirs"), rtol=tolerance)
    assert losses(tmp_path / "ours")[-1] < losses(tmp_path / "ours")[0] - 0.5, "it learned something"
    for key, rtol in (("grad_norm", 20 * tolerance), ("lr", 1e-12)):  # norms vary more than losses
        a, b = ([e[key] for e in log(tmp_path / name, "train")] for name in ("ours", "theirs"))
        np.testing.assert_allclose(a, b, rtol=rtol, err_msg=key)
    a, b = ([e["val_loss"] for e in log(tmp_path / name, "eval")] for name in ("ours", "theirs"))
    np.testing.assert_allclose(a, b, rtol=tolerance)
    if dtype == "fp32":  # a wrong rule of one tensor is visible in the change of that tensor
        start, a, b = (tensors(checkpoints(tmp_path / name)[-1]) for name in ("start", "ours", "theirs"))
        for name in (n for n in a if not n.startswith(("m.", "v."))):
            assert relative_error(a[name] - start[name], b[name] - start[name]) < 0.02, name


@pytest.mark.parametrize(
    "extra",
    [
        ["--optimizer", "sgd", "--lr", 0.3, "--parametrization", "mup", "--base-width", 16],
        ["--schedule", "wsd", "--weight-decay-mode", "independent", "--weight-decay", 0.01],
        [
            *"--schedule linear --parametrization mup --base-width 16 --base-heads 4 --no-scale-eps --eps 1e-4".split(),
        ],
    ],
    ids=lambda extra: "-".join(map(str, extra)),
)
def test_other_optimizers_and_schedules(data, tmp_path, extra):
    options = [
        *data,
        *command_line(SHAPE),
        *"--lr 0.01 --warmup-steps 3 --weight-decay 0.1 --steps 20".split(),
        *extra,
    ]
    run(*options, "--threads", 1, "--out", tmp_path / "ours")
    run_reference(*options, "--out", tmp_path / "theirs")
    np.testing.assert_allclose(losses(tmp_path / "ours"), losses(tmp_path / "theirs"), rtol=1e-4)


# --- Checkpoints both ways -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("first, second", [("ours", "theirs"), ("theirs", "ours")])
def test_each_resumes_the_other(data, tmp_path, first, second, dtype):
    """Ten steps in one program and ten in the other are twenty in either."""
    programs = {"ours": run, "theirs": run_reference}
    options = [
        *data,
        *command_line(SHAPE | SCHEMES["mup x4"] | {"dtype": dtype}),
        *"--lr 0.01 --weight-decay 0.1 --steps 20 --checkpoint-every 10 --keep 5 --skip-loss-zscore 9".split(),
    ]
    programs[first](*options, "--out", tmp_path / "whole")
    programs[first](*options, "--out", tmp_path / "mixed")
    checkpoints(tmp_path / "mixed")[1].rename(tmp_path / "set-aside")
    programs[second](*options, "--resume", "--out", tmp_path / "mixed")
    assert [e["step"] for e in log(tmp_path / "mixed", "train")] == list(range(1, 21))
    np.testing.assert_allclose(
        losses(tmp_path / "mixed"), losses(tmp_path / "whole"), rtol=1e-4 if dtype == "fp32" else 5e-3
    )
    a, b = tensors(checkpoints(tmp_path / "mixed")[-1]), tensors(checkpoints(tmp_path / "whole")[-1])
    assert a.keys() == b.keys() and all(a[name].shape == b[name].shape for name in a)


def test_samples_agree(data, tmp_path, capsys):
    run(*data, *command_line(SHAPE | SCHEMES["mup x4"]), "--lr", 0.02, "--steps", 60, "--out", tmp_path)
    arguments = [
        "sample",
        checkpoints(tmp_path)[0],
        *"--prompt ab --temperature 0.5 --top-k 20 --sample-tokens 60 --seed 5".split(),
    ]
    ours, _ = run(*arguments)
    capsys.readouterr()
    reference.main(last_wins(arguments))
    assert capsys.readouterr().out.strip() == ours.strip()
