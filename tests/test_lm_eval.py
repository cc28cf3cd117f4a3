"""dev/eval/lm_eval.sh: lm-evaluation-harness on an exported model, offline, beside `--hellaswag` on the same items.

The tests that run lm_eval itself are slow ones (make test-slow installs it)."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_tools import characters, windows_of
from hellaswag_tools import BYTES, evaluate, items, write_lines
from program import BINARY, ROOT, TINY, run
from reference_tools import model_of
from shards import random_text, write_text_shards

from llmc import harness
from llmc.choice_evaluation import ChoiceEvaluation
from llmc.data.multiple_choice import read_examples
from llmc.errors import DataError, Error


def there(package):
    return importlib.util.find_spec(package) is not None


needs_lm_eval = pytest.mark.skipif(not there("lm_eval"), reason="lm_eval is not installed: scripts/setup.sh lm-eval")
needs_program = pytest.mark.skipif(not BINARY.exists(), reason="train_gpt2 is not built: run make")
TASK = """\
task: llmc_items
dataset_path: json
dataset_kwargs: {{data_files: {{test: {lines}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{ctx}}}}"
doc_to_choice: "{{{{endings}}}}"
doc_to_target: label
metric_list: [{{metric: acc}}, {{metric: acc_norm}}, {{metric: acc_bytes}}]
"""


# --- Without lm_eval ---


@pytest.fixture
def calls(monkeypatch):
    """The commands and variables of harness.main, which does not run them; lm_eval would write its results."""
    monkeypatch.setitem(sys.modules, "lm_eval", sys)
    monkeypatch.setitem(sys.modules, "accelerate", sys)
    monkeypatch.setattr(harness, "unreachable", lambda url: "no network in tests")
    for name in harness.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    made = []

    def run(command, variables, what):
        made.append((command[1:], variables))
        if "--output_path" in command:
            out = Path(command[command.index("--output_path") + 1])
            out.parent.mkdir(exist_ok=True)
            out.with_name(f"{out.stem}_now.json").touch()

    monkeypatch.setattr(harness, "_run", run)
    return made


def test_an_exported_folder_is_evaluated(calls, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        Path("model", name).touch()
    words = ["model", "--tasks", "a", "b", "--limit", "5", "--model_args", "dtype=float32", "--log_samples"]
    assert harness.main(words) == 0
    expected = "-m lm_eval --model hf --model_args pretrained=model,dtype=float32 --tasks a b --limit 5 --log_samples "
    expected += "--output_path lm_eval_results/model.json"
    assert calls == [(expected.split(), dict.fromkeys(harness.OFFLINE, "1"))]
    text = "offline: huggingface.co cannot be reached (no network in tests), so only data sets of this machine are used"
    assert capsys.readouterr().out == f"{text}\nresults lm_eval_results/model_now.json\n"


def test_a_checkpoint_is_exported_first(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # who sets it, decides
    Path("run").mkdir()
    assert harness.main(["run", "--tasks", "a", "--out", "out"]) == 0
    assert harness.main(["run", "--tasks", "a", "--export", "kept", "--out", "out2"]) == 0
    (first, _), (evaluation, variables), (second, _), (other, _) = calls
    assert first[:5] == ["-m", "llmc", "export", "hf", "run"]
    assert evaluation[5] == f"pretrained={first[5]}"
    assert not Path(first[5]).parent.exists()  # the temporary folder
    assert variables == {}
    assert second[5] == "kept"
    assert other[5] == "pretrained=kept"


def test_what_stops_it(calls, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="there is no folder gone: name an exported folder or a checkpoint"):
        harness.main(["gone", "--tasks", "a"])
    monkeypatch.setattr(harness, "_run", lambda *_: None)
    with pytest.raises(Error, match=r"lm_eval wrote no results to .*: its messages are above"):
        harness.main([str(tmp_path), "--tasks", "a", "--out", str(tmp_path)])
    for package in ("lm_eval", "accelerate"):
        with monkeypatch.context() as patch, pytest.raises(Error) as error:
            patch.setitem(sys.modules, package, None)
            harness.main([str(tmp_path), "--tasks", "a"])
        assert str(error.value).startswith(f"the package {package} is missing: install it by ")
        assert str(error.value).endswith("-r requirements-eval.txt")


def test_a_command_that_fails_is_named():
    with pytest.raises(Error, match="the export failed with exit code 3: its messages are above"):
        harness._run([sys.executable, "-c", "raise SystemExit(3)"], {}, "the export")


# --- lm_eval itself ---


def byte_tokenizer():
    """Our byte vocabulary by the package tokenizers: GPT-2's characters for bytes, and no merges."""
    import tokenizers
    import transformers

    vocab = {character: byte for byte, character in characters().items()}
    end = "<|endoftext|>"
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab | {end: 256}, merges=[]))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=end, bos_token=end, unk_token=end)


def evaluate_items(model, examples, folder):
    """lm_eval's results on the examples; the log-likelihoods of their endings; the JSON lines of the examples."""
    lines = write_lines(folder / "items.jsonl", examples)
    (folder / "items.yaml").write_text(TASK.format(lines=lines))
    words = [model, "--tasks", folder / "items.yaml", "--out", folder / "results", "--batch_size", 3, "--log_samples"]
    done = subprocess.run(
        [ROOT / "dev" / "eval" / "lm_eval.sh", *map(str, words)],
        cwd=folder,
        env={**os.environ, "HF_HOME": str(folder / "hf"), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    path = Path(done.stdout.splitlines()[-1].removeprefix("results "))
    (samples,) = path.parent.glob("samples_*.jsonl")
    logged = {entry["doc_id"]: entry for entry in map(json.loads, samples.read_text().splitlines())}
    scores = [[float(r[0]) for r in logged[i]["filtered_resps"]] for i in range(len(examples))]
    return json.loads(path.read_text())["results"]["llmc_items"], scores, lines


def accuracy(scores, examples, size):
    """Of scores divided by size(ending)."""
    right = 0
    for own, example in zip(scores, examples, strict=True):
        normalised = [score / size(text) for score, text in zip(own, example["endings"], strict=True)]
        right += int(np.argmax(normalised)) == example["label"]
    return right / len(examples)


def compare(model, ours, examples, folder, length):
    """lm_eval's scores and accuracies of `model` beside those of both programs of `ours`."""
    results, scores, lines = evaluate_items(model, examples, folder)
    choices = ChoiceEvaluation(read_examples(lines, 0, BYTES), length, 4)
    with torch.no_grad():
        losses = choices.losses(model_of(ours), torch.device("cpu"))
    # fp32 sums of up to 64 log-likelihoods, in other batches
    np.testing.assert_allclose(np.concatenate(scores), -losses, rtol=1e-5)
    acc, by_tokens, by_bytes, _ = evaluate(ours, "--tokenizer", "byte", "--hellaswag", lines)[0]
    # four decimals are printed
    assert (acc, by_bytes) == pytest.approx((results["acc,none"], results["acc_bytes,none"]), abs=5e-5)
    assert by_tokens == pytest.approx(accuracy(scores, examples, lambda text: len(f" {text}".encode())), abs=5e-5)
    assert results["acc_norm,none"] == pytest.approx(accuracy(scores, examples, len))  # characters


def plain_items():
    """Without what lm_eval 0.4.13 fails on: endings longer than the model's positions (AssertionError), empty ones
    (IndexError). Labels are numbers."""
    examples = [item for i, item in enumerate(items()[:12]) if i not in (4, 5)]
    return [item | {"label": int(item["label"])} for item in examples]


@pytest.mark.slow
@needs_lm_eval
@needs_program
def test_scores_of_lm_eval_beside_ours(tmp_path):
    """A GPT-2 as transformers writes it."""
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**sizes, initializer_range=0.3, bos_token_id=256, eos_token_id=256)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    compare(tmp_path / "model", tmp_path / "model", plain_items(), tmp_path, 64)


@pytest.mark.slow
@needs_lm_eval
@needs_program
def test_scores_of_lm_eval_on_a_checkpoint(tmp_path):
    """Of a muP model at three times its base width, whose multipliers are folded into the export's weights."""
    data = write_text_shards(tmp_path / "data", random_text(9000), shards=1)
    words = ["--train-data", data, *TINY, "--seq-len", 64, "--parametrization", "mup", "--base-width", 16]
    run(*words, "--lr", 0.01, "--steps", 20, "--out", tmp_path / "run")
    compare(tmp_path / "run", tmp_path / "run", plain_items(), tmp_path, 64)


@pytest.mark.slow
@needs_lm_eval
def test_rolling_windows_of_lm_eval(tmp_path):
    """The numbers that test_eval_windows.py and doc/formats.md state of lm-eval 0.4.13."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    windows = get_rolling_token_windows(list(range(150)), prefix_token=999, max_seq_len=64, context_len=1)
    theirs = [(len(before), len(scored)) for before, scored in map(make_disjoint_window, windows)]
    assert theirs == [(1, 64), (1, 64), (43, 22)]
    assert windows_of(tmp_path, 150, 64, 64) == [(1, 64), (1, 64), (1, 21)]
