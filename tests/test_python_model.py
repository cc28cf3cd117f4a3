"""llmc.GPT2: checkpoints written and continued from Python, targets that do not count, and several threads."""

import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from program import ROOT, TINY, run
from shards import random_text, write_text_shards

import llmc

SHAPE = {"depth": 1, "width": 32, "heads": 2, "seq_len": 16, "batch_size": 2, "vocab_size": 257}


def batches(count, seed=0):
    tokens = np.random.default_rng(seed).integers(0, 257, (count, 2, 17))
    return [(batch[:, :-1], batch[:, 1:]) for batch in tokens]


def train(model, data):
    for tokens, targets in data:
        model.zero_grad()
        model.forward(tokens, targets)
        model.backward()
        model.step()


def state_of(model):
    return model.parameters() | model.optimizer_state()


def assert_same_bits(a, b):
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name].view(np.uint32), b[name].view(np.uint32), err_msg=name)


# --- Checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"parametrization": "mup", "base_width": 16, "lr": 0.01},
        {"optimizer": "sgd", "lr": 0.1},
        {"dtype": "bf16", "rounding": "stochastic", "seed": 7},
    ],
    ids=["adamw", "sgd", "bf16"],
)
def test_training_continues_from_a_saved_model_with_the_same_bits(tmp_path, options):
    data = batches(6)
    model = llmc.GPT2(**SHAPE, **options)
    train(model, data[:3])
    path = model.save(tmp_path / "run")
    assert path == tmp_path / "run" / "checkpoints" / "step_00000003" and model.steps == 3
    train(model, data[3:])
    for source in (tmp_path / "run", path, path / "model.safetensors"):
        again = llmc.load(source, resume=True)
        assert again.steps == 3
        train(again, data[3:])
        assert_same_bits(state_of(model), state_of(again))
    other = llmc.GPT2(**SHAPE, **options)
    train(other, data[:1])
    other.load(path, resume=True)
    train(other, data[3:])
    assert_same_bits(state_of(model), state_of(other))
    fresh = llmc.load(path)  # the weights alone: moments start at zero
    assert fresh.steps == 0 and all((v == 0).all() for k, v in fresh.optimizer_state().items() if k[:2] in ("m.", "v."))


def test_what_cannot_be_resumed_is_refused(tmp_path):
    model = llmc.GPT2(**SHAPE)
    train(model, batches(1))
    path = model.save(tmp_path / "run")
    with pytest.raises(llmc.DataError, match='optimizer = "adamw", this model "sgd"'):
        llmc.load(path, resume=True, optimizer="sgd")
    with pytest.raises(llmc.DataError, match='dtype = "fp32", this model "bf16"'):
        llmc.load(path, resume=True, dtype="bf16")
    (path / "optimizer.safetensors").unlink()
    with pytest.raises(llmc.DataError, match="has no optimizer"):
        llmc.load(path, resume=True)
    assert llmc.load(path, optimizer="sgd").config["optimizer"] == "sgd"


def test_what_differs_of_a_model_of_another_shape(tmp_path):
    """And nothing else: under muP the head is untied unless it is said, under SP it is tied."""
    sizes = {"depth": 1, "width": 32, "heads": 2, "seq_len": 16, "vocab_size": 99}
    path = llmc.GPT2(parametrization="mup", base_width=16, **sizes).save(tmp_path / "mup")
    file = re.escape(str(path / "model.safetensors"))
    shape = f"^{file} is a model of another shape: its "
    with pytest.raises(llmc.DataError, match=f"{shape}tie_embeddings is false, this model's true$"):
        llmc.GPT2(**sizes).load(path)
    other = llmc.GPT2(**sizes | {"depth": 3, "heads": 4, "seq_len": 8, "tie_embeddings": False})
    wanted = "depth is 1, this model's 3, its heads is 2, this model's 4, its seq_len is 16, this model's 8$"
    with pytest.raises(llmc.DataError, match=shape + wanted):
        other.load(path)


def test_saving_keeps_earlier_checkpoints_and_refuses_a_folder_with_later_ones(tmp_path):
    model, other = llmc.GPT2(**SHAPE), llmc.GPT2(**SHAPE)
    names = []
    for _ in range(3):
        train(model, batches(1))
        names.append(model.save(tmp_path).name)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == names
    with pytest.raises(llmc.UsageError, match=r"holds the later checkpoint .*step_00000003, this model is at step 0"):
        other.save(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(llmc.Error, match="cannot write the checkpoint"):
        model.save(tmp_path / "file")


def test_programs_take_a_model_saved_from_python(tmp_path):
    """--init takes the weights, --resume continues, sample knows the tokenizer; train_gpt2.py reads the same file."""
    text = write_text_shards(tmp_path / "data", random_text(5000), shards=1)
    options = [
        "--train-data",
        text,
        *TINY,
        "--seq-len",
        16,
        "--parametrization",
        "mup",
        "--base-width",
        "16",
        "--lr",
        "0.01",
    ]
    shape = {"depth": 2, "width": 48, "heads": 3, "seq_len": 16, "batch_size": 4, "vocab_size": 257}
    model = llmc.GPT2(**shape, parametrization="mup", base_width=16, lr=0.01)
    train(model, batches(2))
    model.save(tmp_path / "run", tokenizer="byte")
    assert llmc.load(tmp_path / "run").save(tmp_path / "copy").parent.parent == tmp_path / "copy"
    for folder in ("run", "copy"):  # the tokenizer of a loaded checkpoint is kept
        run("sample", tmp_path / folder, "--prompt", "a", "--sample-tokens", 3)
    assert "weights of" in "".join(run(*options, "--steps", 1, "--init", tmp_path / "run"))
    run(*options, "--steps", 4, "--out", tmp_path / "run", "--resume")
    assert (tmp_path / "run" / "checkpoints" / "step_00000004").is_dir()
    twin = [sys.executable, ROOT / "train_gpt2.py"]
    run(*options, "--steps", 6, "--out", tmp_path / "run", "--resume", program=twin)
    assert (tmp_path / "run" / "checkpoints" / "step_00000006").is_dir()


# --- Targets that do not count ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("logits_rows", [0, 5])
def test_loss_and_gradients_are_those_of_the_targets_that_count(backend, logits_rows):
    name = backend.backend()
    options = SHAPE | {"backend": name, "tie_embeddings": False}
    model = llmc.GPT2(**options, logits_rows=logits_rows)
    tokens, targets = batches(1)[0]
    counts = np.random.default_rng(1).random(targets.shape) < 0.3
    masked = np.where(counts, targets, -100)
    logits = np.asarray(model.forward(tokens), np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(-1)) - np.take_along_axis(shifted, targets[..., None], -1)[..., 0]
    loss = model.forward(tokens, masked)
    assert loss == pytest.approx(losses[counts].mean(), rel=1e-5)
    assert model.backward() == pytest.approx(loss, rel=1e-6)
    gradients = model.gradients()
    probabilities = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
    probabilities[np.arange(2)[:, None], np.arange(16), targets] -= 1
    hidden = model.activations(tokens, targets)["ln_f"].reshape(2, 16, 32)
    expected = np.einsum("btv,btc->vc", probabilities * counts[..., None] / counts.sum(), hidden)
    np.testing.assert_allclose(gradients["lm_head.weight"], expected, atol=1e-5)
    total = llmc.GPT2(**options)  # two micro-batches of one step, with the count of both
    for rows in (slice(0, 1), slice(1, 2)):
        total.forward(tokens[rows], masked[rows])
        total.backward(total_tokens=int(counts.sum()))
    for key, values in total.gradients().items():
        np.testing.assert_allclose(values, gradients[key], rtol=2e-4, atol=1e-6, err_msg=key)


def test_a_batch_without_any_target_is_refused():
    model = llmc.GPT2(**SHAPE)
    tokens = batches(1)[0][0]
    with pytest.raises(llmc.UsageError, match="all targets are -100"):
        model.forward(tokens, np.full_like(tokens, -100))
    with pytest.raises(llmc.UsageError, match="token -100 is outside the vocabulary"):
        model.forward(np.full_like(tokens, -100))
    with pytest.raises(llmc.UsageError, match="token -1 is outside the vocabulary"):
        model.forward(tokens, np.full_like(tokens, -1))


# --- Threads ----------------------------------------------------------------------------------------------------------


class Counter(threading.Thread):
    """Counts while it holds the global interpreter lock, which it offers to others after every step."""

    def __init__(self):
        super().__init__(daemon=True)
        self.count, self.stop = 0, False

    def run(self):
        while not self.stop:
            self.count += 1
            time.sleep(0)


@pytest.mark.parametrize("method", ["forward", "backward", "step", "generate", "logits", "loss", "parameters", "save"])
def test_other_threads_run_while_a_model_computes(method, tmp_path):
    """With a switch interval of minutes, no thread loses the lock unless it gives it away: the counter gets on while a
    call runs only if the call gives it away."""
    model = llmc.GPT2(**(SHAPE | {"seq_len": 64, "depth": 2}))
    native, (tokens, targets) = model._model, batches(1)[0]
    calls = {
        "forward": lambda: native.forward(tokens, targets),
        "backward": lambda: native.backward(0),
        "step": lambda: native.step(1.0),
        "generate": lambda: native.continue_tokens([1, 2], llmc.cpu.SampleRequest(30)),
        "logits": lambda: native.logits(tokens),
        "loss": lambda: native.loss(tokens),
        "parameters": native.parameters,
        "save": lambda: native.save(str(tmp_path), ""),
    }
    interval, counter = sys.getswitchinterval(), Counter()
    sys.setswitchinterval(600)
    counter.start()
    try:
        for _ in range(2000):
            if method == "backward":
                native.forward(tokens, targets)
            elif method == "step":
                native.forward(tokens, targets)
                native.backward(0)
            before = counter.count
            calls[method]()
            if counter.count > before:
                return
    finally:
        counter.stop = True
        sys.setswitchinterval(interval)
        counter.join()
    pytest.fail(f"{method} kept the global interpreter lock")


@pytest.mark.parametrize("op", ["matmul_forward", "attention_forward", "adamw_step", "time_op"])
def test_other_threads_run_while_an_op_computes(op):
    """As above. The lock is away also for the moment in which a call waits for its turn, so a single step is not
    enough."""
    cpu, numbers = llmc.backend("cpu"), np.zeros((1 << 20,), np.float32)
    entry = dict.fromkeys(("param", "grad", "m", "v"), numbers)
    call = {
        "matmul_forward": lambda: cpu.matmul_forward(numbers.reshape(1024, -1), numbers.reshape(1024, -1)),
        "attention_forward": lambda: cpu.attention_forward(
            numbers[: 3 << 18].reshape(2, 2048, 192), num_heads=1, logit_scale=1.0
        ),
        "adamw_step": lambda: cpu.adamw_step([entry] * 8, step=1, beta1=0.9, beta2=0.99),
        "time_op": lambda: cpu.time_op("gelu_forward", {"N": 1000, "C": 1000}),
    }[op]
    interval, counter = sys.getswitchinterval(), Counter()
    sys.setswitchinterval(600)
    counter.start()
    try:
        steps = 0
        for _ in range(50):
            before = counter.count
            call()
            steps = max(steps, counter.count - before)
            if steps > 50:
                break
    finally:
        counter.stop = True
        sys.setswitchinterval(interval)
        counter.join()
    assert steps > 50


def test_threads_that_share_the_device_take_turns(backend):
    """One model of its own and one shared model for each thread: results are those of one thread, nothing crashes."""
    name, data = backend.backend(), batches(3)
    expected = llmc.GPT2(**SHAPE, backend=name)
    train(expected, data)
    shared = llmc.GPT2(**SHAPE, backend=name)
    gelu = np.linspace(-3, 3, 64, dtype=np.float32)
    results, errors = {}, []

    def work(number):
        try:
            model = llmc.GPT2(**SHAPE, backend=name)
            for batch in data:
                train(model, [batch])
                shared.forward(*batch)
                shared.generate([1], 2)
                backend.gelu_forward(gelu)
            results[number] = state_of(model)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for state in results.values():
        assert_same_bits(state, state_of(expected))


def test_a_thread_has_the_threads_of_the_device():
    """OpenMP's number of threads belongs to a thread: without care a second one would use another, and other bits."""
    code = """
import os, threading, llmc, numpy as np
llmc.cpu.initialize(1)
def product(out):
    rng = np.random.default_rng(0)
    result = llmc.cpu.matmul_forward(rng.normal(size=(256, 512)), rng.normal(size=(384, 512)))["out"]
    out += [result.tobytes(), len(os.listdir("/proc/self/task"))]
here, there = [], []
product(here)
thread = threading.Thread(target=product, args=(there,))
thread.start()
thread.join()
print(here[0] == there[0], here[1], there[1])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "python", capture_output=True, text=True,
                          env={"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "1"})  # fmt: skip
    assert done.stdout.split() == ["True", "1", "2"], done.stdout + done.stderr


# --- Looks ------------------------------------------------------------------------------------------------------------


def test_repr_says_what_the_model_is():
    model = llmc.GPT2(**SHAPE, parametrization="mup", base_width=16)
    train(model, batches(1))
    assert repr(model) == (
        "llmc.GPT2(depth=1, width=32, heads=2, seq_len=16, batch_size=2, vocab_size=257, parametrization='mup', "
        f"dtype='fp32', backend={model._model.backend!r}) at step 1"
    )
