"""llmc.mup.check, llmc.plot.check and their script: slopes, verdicts, causes and figures, from CSVs in which every
power of the width is known."""

from __future__ import annotations

import json
import math

import pytest
from check_tools import RULES, rows_of, write
from script_tools import imported_by_help, run_script

from llmc.errors import DataError
from llmc.mup import check_report, theory
from llmc.mup.check import check, fit, t_quantile
from llmc.mup.check_csv import activation_names, parameter_names
from llmc.mup.findings import Verdict
from llmc.plot import check as figures

SCRIPT = "dev/mup_coordinate_check_visualize.py"


@pytest.mark.parametrize("scheme", [scheme for scheme in theory.SCHEMES if scheme != "sp"])
def test_the_rules_pass_in_every_form(scheme):
    verdict = check(rows_of(scheme))
    assert verdict.passed, verdict.causes
    judged = [finding for finding in verdict.findings if finding.band]
    assert {finding.kind for finding in judged} == {"activation", "update", "init", "gradient"}
    assert {f.tensor for f in judged} == activation_names(2) | parameter_names(2)  # all tensors


CAUSES = [
    ({"hidden": (0, -0.5, 0)}, "h.0.mlp.c_fc.weight", "update", "hidden learning rate not divided by width_mult"),
    (
        {"hidden": (0, -0.5, -0.5)},
        "h.1.mlp.c_proj.weight",
        "update",
        "hidden learning rate divided by sqrt(width_mult), not by width_mult",
    ),
    ({"hidden": (0, -0.5, -2)}, "h.0.attn.c_attn.weight", "update", "hidden learning rate divided by width_mult^2"),
    ({"hidden": (0, 0, -1)}, "h.0.attn.c_attn.weight", "init", "hidden init not divided by sqrt(width_mult)"),
    ({"output": (0, 0, 0)}, "lm_head.weight", "update", "readout multiplier missing: not divided by width_mult"),
    ({"output": (-0.5, 0, 0)}, "lm_head.weight", "update", "readout multiplier divided by sqrt(width_mult)"),
    ({"output": (-1, 0, -1)}, "lm_head.weight", "update", "readout learning rate divided twice"),
    ({"input": (0, 0, -1)}, "wte.weight", "update", "embedding learning rate divided by width_mult"),
    ({"input": (0, 0, -0.5)}, "wpe.weight", "update", "embedding learning rate divided by sqrt(width_mult)"),
    ({"vector": (0, 0, -1)}, "h.0.ln_1.bias", "update", "layer norm and bias learning rates divided by width_mult"),
    ({"vector": (0, 0, 1)}, "ln_f.weight", "update", "layer norm and bias learning rates multiplied by width_mult"),
]


@pytest.mark.parametrize("rules, tensor, kind, cause", CAUSES, ids=[case[3] for case in CAUSES])
def test_a_wrong_rule_is_named(rules, tensor, kind, cause):
    verdict = check(rows_of(rules=rules))
    assert not verdict.passed
    failure = next(f for f in verdict.failures if (f.kind, f.tensor) == (kind, tensor))
    assert failure.cause.startswith(cause)
    roles = {failure.role for failure in verdict.failures}
    assert roles == set(rules)  # no other roles are named
    a, b, c = rules[failure.role]
    assert failure.slope == pytest.approx(a + b if kind == "init" else a + c, abs=0.03)


def test_a_wrong_rule_of_another_form_is_named():
    assert (
        "readout learning rate not divided by width_mult"
        in check(rows_of("mup-table3", rules={"output": (0, -1, 0)})).causes
    )
    assert (
        "embedding multiplier missing: not multiplied by sqrt(width_mult)"
        in check(rows_of("mup-table9", rules={"input": (0, -0.5, -0.5)})).causes
    )
    assert (
        "hidden learning rate not divided by sqrt(width)"
        in check(rows_of("u-mup", rules={"hidden": (-0.5, 0, 0)})).causes
    )


@pytest.mark.parametrize(
    "power, words",
    [
        (2, "width_mult^2, too large: multiplied where"),
        (1, "width_mult, too large: it is missing"),
        (-1, "width_mult, too small: it is applied twice"),
    ],
)
def test_a_wrong_gradient_through_the_readout_is_named(power, words):
    verdict = check(rows_of(gradients=power))
    assert {failure.kind for failure in verdict.failures} == {"gradient"}
    assert list(verdict.causes) == [next(iter(verdict.causes))]
    assert f"the gradient through the readout multiplier is wrong by {words}" in next(iter(verdict.causes))


def test_one_wrong_gradient_does_not_blame_the_readout():
    rows = [
        row._replace(mean_abs=row.mean_abs * row.width) if (row.kind, row.tensor) == ("gradient", "wpe.weight") else row
        for row in rows_of()
    ]
    [failure] = check(rows).failures
    assert failure.tensor == "wpe.weight"
    assert "backward pass" in failure.cause


def test_a_readout_multiplier_that_only_the_table_has():
    [cause] = check(rows_of(slopes={".attn.logits": 0.0, "logits": 0.9})).causes
    assert cause == "readout multiplier missing in the forward pass, though the table of rules has it"


def test_attention_scale_shows_where_the_head_size_grows():
    wrong = {".attn.logits": 0.5}
    verdict = check(rows_of(slopes=wrong, heads=4))
    assert verdict.head_grows
    assert {f.tensor for f in verdict.failures} == {"h.0.attn.logits", "h.1.attn.logits"}
    assert list(verdict.causes) == ["attention scale is 1/sqrt(d), not 1/d, with d the head size"]
    assert check(rows_of(slopes={".attn.logits": -0.5}, heads=4)).passed  # queries and keys are still random
    assert not check(rows_of(slopes={".attn.logits": -0.5})).passed  # the same with a growing number of heads
    verdict = check(rows_of("u-mup", heads=4, slopes={".attn.logits": 0.05}))  # its correct slope is -0.5
    assert list(verdict.causes) == ["attention scale is 1/sqrt(d), not 1/d, with d the head size"]
    assert check(rows_of("u-mup", heads=4, slopes={".attn.logits": -0.45})).passed
    with pytest.raises(DataError, match="neither the number of heads nor their size"):
        check([row._replace(heads=8) if row.width == 128 else row for row in rows_of(heads=4)])


LIMITS = [("mlp.c_fc", 0.15), ("mlp.c_fc", -0.15), ("h.0.attn.logits", 0.25), ("h.1.attn.logits", -0.4)]


@pytest.mark.parametrize("tensor, limit", LIMITS)
def test_thresholds_of_activations_from_both_sides(tensor, limit):
    inside, outside = (math.copysign(abs(limit) + step, limit) for step in (-0.02, 0.02))
    slopes = {".attn.logits": 0.0} if tensor == "mlp.c_fc" else {}
    assert check(rows_of(slopes={tensor: inside} | slopes, noise=1e-4)).passed
    assert not check(rows_of(slopes={tensor: outside} | slopes, noise=1e-4)).passed


@pytest.mark.parametrize(
    "role, part, limit",
    [
        ("hidden", 2, 0.15),
        ("vector", 2, 0.15),
        ("input", 2, 0.15),
        ("output", 2, 0.15),
        ("hidden", 1, 0.05),
        ("input", 1, 0.05),
    ],
)
@pytest.mark.parametrize("sign", [-1, 1])
def test_thresholds_of_weights_from_both_sides(role, part, limit, sign):
    def verdict(error: float) -> Verdict:
        rule = list(RULES["mup"][role])
        rule[part] += sign * error
        return check(rows_of(rules={role: tuple(rule)}, noise=1e-4))

    assert verdict(limit - 0.01).passed
    assert {f.role for f in verdict(limit + 0.01).failures} == {role}


@pytest.mark.parametrize("sign", [-1, 1])
def test_thresholds_of_gradients_from_both_sides(sign):
    assert check(rows_of(gradients=sign * (theory.GRADIENT - 0.01), noise=1e-4)).passed
    assert not check(rows_of(gradients=sign * (theory.GRADIENT + 0.01), noise=1e-4)).passed


def test_seed_noise_widens_intervals_and_more_seeds_narrow_them():
    few, many = (check(rows_of(seeds=range(n), noise=0.1)) for n in (2, 8))
    width = [sum(f.high - f.low for f in v.findings if f.kind == "activation") for v in (few, many)]
    assert width[1] < 0.6 * width[0]
    inside = [f.low <= 0 <= f.high for f in many.findings if f.kind == "activation"]
    assert 0.8 < sum(inside) / len(inside) <= 1  # 95% intervals
    noisy = check(rows_of(sizes=(64, 128), noise=0.6))
    assert any(f.cause == "too noisy to judge" for f in noisy.undecided)  # a slope inside by chance does not pass


@pytest.mark.parametrize(
    "sizes, seeds", [((48, 112), 3), ((48, 80, 112), 3), ((48, 80, 112), 1), ((64, 128), 2), ((64, 128, 256, 512), 2)]
)
def test_noise_alone_hardly_ever_fails_a_correct_parametrization(sizes, seeds):
    """At most 5% of checks, which have about 100 slopes each: with 95% intervals most of them would fail."""
    verdicts = [check(rows_of(sizes=sizes, seeds=range(seeds), noise=0.15, draw=draw)) for draw in range(20)]
    assert sum(verdict.verdict == "FAIL" for verdict in verdicts) <= 1
    assert sum(len(verdict.failures) for verdict in verdicts) <= 1
    assert any(verdict.verdict == "UNDECIDED" for verdict in verdicts)


@pytest.mark.parametrize("seeds", [2, 3])
def test_noise_does_not_hide_a_wrong_rule(seeds):
    for draw in range(10):
        rows = rows_of(rules={"hidden": (0, -0.5, 0)}, seeds=range(seeds), noise=0.1, draw=draw)
        verdict = check(rows)
        assert verdict.verdict == "FAIL"
        assert "hidden learning rate not divided by width_mult" in verdict.causes


def test_an_undecided_check_says_what_to_rerun_and_has_its_own_code(tmp_path, capsys):
    path = write(tmp_path / "noisy.csv", rows_of(sizes=(48, 112), seeds=(1, 2, 3), noise=0.2))
    assert figures.main([str(path), "--no-figures", "--json", str(tmp_path / "v.json")]) == 6
    printed = capsys.readouterr().out
    assert "mup: UNDECIDED (" in printed
    assert printed.rstrip().splitlines()[-1] == (
        "overall: UNDECIDED: mup; rerun with SEEDS=6 or WIDTHS up to 192 or more (none expected to fail)"
    )
    assert "FAIL" not in printed.replace("expected to fail", "")
    found = json.loads((tmp_path / "v.json").read_text())
    assert (found["exit_status"], found["checks"][0]["verdict"]) == (6, "UNDECIDED")
    marked = [f for f in found["checks"][0]["findings"] if f["verdict"] == "UNDECIDED"]
    assert marked and {f["cause"] for f in marked} <= {"may be noise", "too noisy to judge"}
    # one that FAILs counts more than one that is undecided, and sp has to fail
    rows = rows_of(sizes=(48, 112), seeds=(1, 2, 3), noise=0.2) + rows_of("u-mup", rules=RULES["sp"])
    assert check_report.main([str(write(tmp_path / "both.csv", rows))]) == 1
    assert "overall: FAIL: u-mup" in capsys.readouterr().out
    rows = rows_of("sp", rules=RULES["mup"], sizes=(48, 112), seeds=(1, 2, 3), noise=0.2)
    assert check_report.main([str(write(tmp_path / "sp.csv", rows))]) == 6
    assert "sp: UNDECIDED, and it should FAIL" in capsys.readouterr().out


@pytest.mark.parametrize(
    "sizes, seeds, words",
    [
        ((48, 112), 3, "rerun with SEEDS=6 or WIDTHS up to 192 or more"),
        ((48, 224), 2, "rerun with SEEDS=4"),
        ((48, 112), 7, "rerun with WIDTHS up to 192 or more"),
        ((48, 224), 7, "rerun with more WIDTHS"),
    ],
)
def test_what_to_rerun(sizes, seeds, words):
    assert check_report.remedy(check(rows_of(sizes=sizes, seeds=range(seeds)))) == words


def test_quantiles_of_narrow_tails():
    """Student's t from tables: 4.587 for 0.1% and 10 degrees of freedom, 636.62 for 1 (SciPy 1.17, t.isf)."""
    assert t_quantile(10, 0.001) == pytest.approx(4.587, abs=1e-3)
    assert t_quantile(1, 0.001) == pytest.approx(636.62, abs=0.01)  # three runs can hardly fail anything


def test_counts_of_one_have_no_plural(capsys, tmp_path):
    path = write(tmp_path / "one.csv", rows_of(sizes=(64, 128, 256), seeds=(1,), noise=1e-4))
    check_report.main([str(path)])
    assert "(64, 128, 256; 1 seed, 4 steps)" in capsys.readouterr().out


def test_intervals_are_those_of_a_regression():
    points = [(1, 1.0), (2, 2.2), (4, 3.9), (8, 8.5), (8, 7.5)]
    slope = fit(points)
    np = pytest.importorskip("numpy")
    x, y = np.log2(np.array(points)).T
    coefficients, covariance = np.polyfit(x, y, 1, cov="unscaled")
    rest = ((y - np.polyval(coefficients, x)) ** 2).sum() / 3
    assert slope.value == pytest.approx(coefficients[0])
    assert slope.high - slope.value == pytest.approx(3.18245 * math.sqrt(rest * covariance[0, 0]), rel=1e-5)
    for freedom, quantile in ((1, 12.7062), (2, 4.30265), (4, 2.77645), (10, 2.22814), (13, 2.16037), (100, 1.98397)):
        assert t_quantile(freedom) == pytest.approx(quantile, rel=1e-5)


def test_equal_values_have_a_slope_of_exactly_zero():
    assert fit([(64, 1.0), (128, 1.0), (256, 1.0)]) == (0.0, 0.0, 0.0, 0.0)


def test_what_does_not_move_or_is_not_finite_fails():
    def spoil(change, **where):
        return [
            row._replace(**change) if all(getattr(row, key) == value for key, value in where.items()) else row
            for row in rows_of()
        ]

    frozen = check(spoil({"delta": 0.0}, kind="parameter", tensor="wte.weight"))
    assert [(f.tensor, f.cause) for f in frozen.failures] == [("wte.weight", "never moves")]
    diverged = check(spoil({"mean_abs": math.nan}, kind="activation", tensor="logits", width=512))
    assert "not finite at size 512" in diverged.failures[0].cause
    dead = check(spoil({"mean_abs": 0.0}, kind="activation", tensor="h.0.mlp.gelu", width=64))
    assert "zero at size 64" in dead.failures[0].cause


def drop(rows, **where):
    return [row for row in rows if not all(getattr(row, key) == value for key, value in where.items())]


@pytest.mark.parametrize(
    "rows, words",
    [
        (lambda: rows_of(sizes=(64,)), "at least two widths"),
        (lambda: rows_of(sizes=(64, 128), seeds=(1,)), "a third run"),
        (lambda: rows_of(steps=3), "has 3 steps"),
        (lambda: drop(rows_of(), width=256, seed=2), "lacks the run of width 256, seed 2"),
        (lambda: drop(rows_of(), width=256, seed=2, step=4), "lacks activation embedding at step 4"),
        (lambda: drop(rows_of(), tensor="h.1.mlp.gelu"), "lacks activation h.1.mlp.gelu"),
        (lambda: drop(rows_of(), kind="gradient"), "lacks gradient"),
        (lambda: drop(rows_of(), tensor="lm_head.weight"), "--no-tie-embeddings"),
        (lambda: rows_of() + rows_of(seeds=(2,)), "is there twice"),
        (lambda: [row._replace(lr=2e-3) if row.width == 64 else row for row in rows_of()], "several lr"),
        (lambda: [row._replace(base_width=row.width) for row in rows_of()], "several base_width"),
        (lambda: [row._replace(parametrization="ntk") for row in rows_of()], "unknown"),
        (lambda: rows_of() + rows_of("sp"), "not one"),
    ],
)
def test_too_little_is_an_error_not_a_pass(rows, words):
    with pytest.raises(DataError, match=words):
        check(rows())


def test_depth(tmp_path):
    good = check(rows_of("completep", axis="depth", sizes=(2, 4, 8), slopes={"resid_mlp": -0.15}))
    assert good.axis == "depth"
    assert good.passed, good.causes
    grown = check(rows_of("mup", axis="depth", sizes=(2, 4, 8), slopes={"resid_mlp": 0.7}))
    assert [f.tensor for f in grown.failures] == ["h.last.resid_mlp"]
    assert "residual branches grow with the depth" in grown.failures[0].cause
    assert not check(rows_of("completep", axis="depth", sizes=(2, 4, 8), slopes={"resid_mlp": -0.4})).passed
    rates = [
        row._replace(delta=row.delta / row.depth) if row.kind == "parameter" and row.tensor.startswith("h.") else row
        for row in rows_of("completep", axis="depth", sizes=(2, 4, 8))
    ]
    assert "learning rate in the blocks divided by depth" in check(rates).causes
    path = write(
        tmp_path / "depth.csv",
        rows_of("completep", axis="depth", sizes=(2, 4, 8))
        + rows_of("mup", axis="depth", sizes=(2, 4, 8), slopes={"resid_mlp": 0.7}),
    )
    assert figures.main([str(path), "--format", "svg"]) == 0  # mup is expected to fail here
    assert "depth" in (tmp_path / "curves.svg").read_text()


SP = {"mlp.c_fc": 0.7, "resid_mlp": 1.4, "logits": 0.9}


def test_figures_table_and_json(tmp_path, capsys):
    path = write(tmp_path / "check.csv", rows_of("sp", slopes=SP) + rows_of("mup"))
    verdict = tmp_path / "v" / "verdict.json"
    assert figures.main([str(path), "--out", str(tmp_path / "new"), "--json", str(verdict)]) == 0
    image = pytest.importorskip("matplotlib.image")
    for name in ("curves", "layers"):
        pixels = image.imread(tmp_path / "new" / f"{name}.png")[..., :3]
        assert pixels.shape[1] > 1200
        assert 0.5 < (pixels.min(axis=2) > 0.99).mean() < 0.97  # mostly white, but not empty
    printed = capsys.readouterr().out
    assert "sp: FAIL, as it should" in printed
    assert "mup: PASS" in printed
    assert "hidden learning rate not divided by width_mult" in printed
    assert "overall: PASS" in printed
    sp, mup = json.loads(verdict.read_text())["checks"]
    assert (sp["verdict"], mup["verdict"], sp["expected_to_fail"]) == ("FAIL", "PASS", True)
    logits = next(f for f in sp["findings"] if f["tensor"] == "logits")
    assert logits["slope"] == pytest.approx(0.9, abs=0.05)
    assert logits["interval"][0] < logits["slope"] < logits["interval"][1]
    assert logits["passes"] == [-0.15, 0.15]


def test_programs_over_each_other(tmp_path, capsys):
    ours = write(tmp_path / "a.csv", rows_of("sp", slopes=SP) + rows_of())
    twin = write(tmp_path / "b.csv", rows_of(program="train_gpt2.py"))
    assert figures.main([str(ours), str(twin), "--format", "svg", "--statistic", "delta"]) == 0
    text = (tmp_path / "curves_change.svg").read_text()
    assert "train_gpt2.py" in text
    assert "stroke-dasharray" in text
    alone = tmp_path / "alone"
    assert figures.main([str(twin), "--format", "svg", "--out", str(alone)]) == 0
    assert "stroke-dasharray" not in (alone / "curves.svg").read_text()
    assert "mup train_gpt2.py: PASS" in capsys.readouterr().out


def test_the_verdict_alone_is_the_same_and_draws_nothing(tmp_path, capsys):
    path = write(tmp_path / "check.csv", rows_of("sp", slopes=SP) + rows_of("mup"))
    printed = []
    for command in (check_report.main, lambda argv: figures.main([*argv, "--no-figures"])):
        assert command([str(path), "--all-blocks", "--json", str(tmp_path / "verdict.json")]) == 0
        printed.append(capsys.readouterr().out + (tmp_path / "verdict.json").read_text())
    assert printed[0] == printed[1]
    assert "overall: PASS (sp expected to fail)" in printed[0]
    assert not list(tmp_path.glob("*.png"))


def test_exit_codes(tmp_path):
    good = write(tmp_path / "good.csv", rows_of())
    bad = write(tmp_path / "bad.csv", rows_of(rules={"hidden": (0, -0.5, 0)}))
    assert run_script(SCRIPT, good, "--no-figures").returncode == 0
    failed = run_script(SCRIPT, bad, "--no-figures")
    assert failed.returncode == 1
    assert "overall: FAIL: mup" in failed.stdout
    assert run_script(SCRIPT, bad, "--no-figures", "--expect-fail", "mup").returncode == 0
    lucky = write(tmp_path / "lucky.csv", rows_of("sp", rules=RULES["mup"]) + rows_of())
    suspicious = run_script(SCRIPT, lucky, "--no-figures")
    assert suspicious.returncode == 1
    assert "the check is suspicious" in suspicious.stdout
    assert run_script(SCRIPT, lucky, "--no-figures", "--expect-fail").returncode == 0
    assert run_script(SCRIPT, good, "--expect-fail", "ntk").returncode == 2
    text = good.read_text()
    for content in ("", "a,b\n1,2\n", text[:-20], text.replace(",0.001,", ",0.0o1,"), "\x00\xff"):
        (tmp_path / "broken.csv").write_text(content)
        broken = run_script(SCRIPT, tmp_path / "broken.csv")
        assert broken.returncode == 3, content[:100]
        assert "Traceback" not in broken.stderr
        assert "broken.csv" in broken.stderr
    assert run_script(SCRIPT, tmp_path / "none.csv").returncode == 3
    assert not list(tmp_path.glob("*.png"))


def test_help_is_quick_and_needs_no_packages():
    assert not imported_by_help(SCRIPT) & {"matplotlib", "numpy", "scipy"}
