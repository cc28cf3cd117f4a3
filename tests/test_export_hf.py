"""dev/export_hf.py: what transformers and tokenizers load of an exported checkpoint is the trained model."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import yaml
from data_tools import SHARED
from export_tools import CASES, random_checkpoint
from program import ROOT, run
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shards import random_text, write_text_shards
from test_text import TEXTS
from weight_tools import CONFIG, VOCAB, WIDTH, random_weights, reference_loss, write

import llmc
from llmc.bpe_table import BpeTable, byte_of_characters
from llmc.checkpoint import open_checkpoint
from llmc.errors import DamageError, DataError, Error, UsageError
from llmc.export import hf, hf_files
from llmc.export.fold import fold

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif("cpu" not in llmc.backends(), reason="not built: run make module"),
]
LENGTH, PROMPT = 80, b"The end"  # positions; 64 tokens follow the prompt
SHAPE = f"--depth 2 --width 64 --heads 4 --seq-len {LENGTH} --batch-size 2".split()
END = "<|endoftext|>"
LARGER = {"input": 5, "hidden": 25}
UNTIED = "--no-tie-embeddings"
PLAIN_TEXTS = [text.replace(END, "") for text in TEXTS]  # of END, these tokenizers make one token


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_text_shards(tmp_path_factory.mktemp("data"), random_text(5000), shards=1)


@pytest.fixture
def checkpoint(data, tmp_path):
    """Makes one whose logits depend on all weights: at their initial size, the blocks would hardly matter."""
    return lambda *options: random_checkpoint(data, tmp_path / "run", *SHAPE, *options, larger=LARGER)


def export(*words):
    assert hf.main([str(word) for word in words]) == 0


def load(folder, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()


@pytest.mark.parametrize("case", CASES)
def test_transformers_computes_the_trained_model(checkpoint, tmp_path, case):
    """transformers 5.24.0, every scheme at four times its base width. The logits are of size 0.7 to 13."""
    path, out = checkpoint(*CASES[case]), tmp_path / "out"
    export(path, out)
    ours, theirs = llmc.load(path, batch_size=1), load(out)
    assert theirs.dtype == torch.float32
    tokens = np.random.default_rng(0).integers(0, 257, (1, LENGTH))
    with torch.no_grad():
        logits = theirs(torch.from_numpy(tokens)).logits.numpy()
    # fp32 sums in another order: 2e-5 was seen; u-muP's epsilon of layer norm is another one: 5e-5
    assert np.abs(logits - ours.forward(tokens)).max() <= 1e-4
    prompt = [256, *PROMPT]
    theirs.generation_config.eos_token_id = None  # ours goes on after the end of a document
    words = {"input_ids": torch.tensor([prompt]), "attention_mask": torch.ones(1, len(prompt), dtype=torch.int64)}
    with torch.no_grad():
        greedy = theirs.generate(**words, do_sample=False, max_new_tokens=64)
        best = theirs(greedy).logits[0, len(prompt) - 1 : -1].topk(2).values
    assert greedy[0, len(prompt) :].tolist() == ours.generate(prompt, 64, temperature=0)
    assert (best[:, 0] - best[:, 1]).min() > 2e-4, "the choice of a token depends on rounding: change the seed"


@pytest.mark.parametrize(("dtype", "tied"), [("bf16", True), ("fp16", False)])
def test_half_precision(checkpoint, tmp_path, capsys, dtype, tied):
    """transformers 5.24.0 takes the dtype of the config; 4.57.1 does with dtype="auto"."""
    path = checkpoint("--parametrization", "mup", "--base-width", 16, "--tie-embeddings" if tied else UNTIED)
    export(path, tmp_path / "out", "--dtype", dtype)
    said = capsys.readouterr().out
    assert f"note    {dtype} has rounded numbers, first of wte.weight: --dtype fp32 keeps them" in said
    model = load(tmp_path / "out", dtype="auto")
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert {parameter.dtype for parameter in model.parameters()} == {wanted}
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").dtype == wanted
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == str(wanted).removeprefix("torch.")
    plain = {rule["name"]: value for rule, value in fold(open_checkpoint(path)).tensors()}
    assert torch.equal(model.transformer.h[1].mlp.c_fc.weight, plain["h.1.mlp.c_fc.weight"].T.to(wanted))
    assert torch.equal(model.lm_head.weight, plain["wte.weight" if tied else "lm_head.weight"].to(wanted))


def test_the_dtype_is_that_of_the_checkpoint(checkpoint, tmp_path, capsys):
    export(checkpoint("--dtype", "bf16"), tmp_path / "out")
    text = capsys.readouterr().out
    assert "model.safetensors, bf16," in text
    assert "rounded" not in text, "nothing is folded: the same bits"
    file = load_file(tmp_path / "out/model.safetensors")
    assert {value.dtype for value in file.values()} == {torch.bfloat16}


def test_what_fp16_cannot_hold_is_refused(checkpoint, tmp_path):
    path = checkpoint("--parametrization", "sp")
    tensors = load_file(path)
    tensors["h.1.mlp.c_fc.weight"][3, 5] = -7e4
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, path, metadata)
    with pytest.raises(DataError, match=r"h.1.mlp.c_fc.weight has the number -70000, beyond fp16's largest, 65504"):
        export(path, tmp_path / "out", "--dtype", "fp16")
    assert not list(tmp_path.glob("*out*")), "nothing is left"
    export(path, tmp_path / "out", "--dtype", "bf16")


def test_several_files(checkpoint, tmp_path):
    """The index is that of transformers; both programs and llmc.load read it, too."""
    path, out = checkpoint("--parametrization", "mup", "--base-width", 16, UNTIED), tmp_path / "out"
    export(path, out, "--max-shard-size", "100kB")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(file.name for file in out.glob("model-*.safetensors"))
    assert files == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    assert set(index["weight_map"].values()) == set(files)
    sizes = [sum(value.numel() * 4 for value in load_file(out / file).values()) for file in files]
    assert max(sizes) <= 100_000
    assert sum(sizes) == index["metadata"]["total_size"]
    tokens = np.arange(LENGTH)[None]
    with torch.no_grad():
        theirs = load(out)(torch.from_numpy(tokens)).logits.numpy()
    for folder in (path, out):
        assert np.abs(llmc.load(folder, batch_size=1).forward(tokens) - theirs).max() <= 1e-4


@pytest.mark.parametrize("size", ["0", "5 parsecs", "GB", "-1", "1e30"])
def test_sizes_of_files(tmp_path, size):
    with pytest.raises(UsageError, match="--max-shard-size is '"):
        export("none", tmp_path / "out", f"--max-shard-size={size}")


def test_names_and_layout(checkpoint, tmp_path):
    """safetensors 0.8.0 writes other data of arrays that are not contiguous (transposes) in silence, and transformers
    4.57.1 takes a bare lm_head.weight only beside names with transformer., and no file without format = pt."""
    path = checkpoint("--parametrization", "sp", UNTIED)
    export(path, tmp_path / "out")
    stored, written = load_file(path), load_file(tmp_path / "out/model.safetensors")
    assert set(written) == {name if name == "lm_head.weight" else f"transformer.{name}" for name in stored}
    for name, value in stored.items():  # c_fc was transposed twice
        assert torch.equal(written[name if name == "lm_head.weight" else f"transformer.{name}"], value), name
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o644}


@pytest.mark.parametrize("tied", [True, False])
def test_config(checkpoint, tmp_path, tied):
    """All that transformers would otherwise guess is written; 300 rows of wte are cut to the 257 that are tokens."""
    options = [*"--parametrization mup --base-width 16 --embed-mult 3 --output-mult 2 --vocab-size 300".split()]
    export(checkpoint(*options, "--tie-embeddings" if tied else UNTIED), tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["tie_word_embeddings"] == tied
    assert (config["vocab_size"], config["n_positions"], config["n_head"]) == (257, LENGTH, 4)
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [256, 256, None]
    folded = config["folded_parametrization"]
    assert (folded["scheme"], folded["base_width"], folded["mup_embeddings_scale"]) == ("mup", 16, 3)
    assert folded["mup_output_alpha"] * folded["mup_width_scale"] == pytest.approx(2 / 4)
    applied = {"embedding_multiplier", "logits_scaling", "mup_output_alpha", "mup_embeddings_scale", "mup_width_scale"}
    assert not applied & set(config), "programs that know them would apply them again"
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (256, 256, None)
    model = load(tmp_path / "out")
    assert model.config.folded_parametrization == folded
    assert (model.lm_head.weight is model.transformer.wte.weight) == tied


# --- Tokenizers ---


def test_bytes(checkpoint, tmp_path):
    """tokenizers 0.23.3 and transformers 5.24.0: no merges, and numbers as written, not those of bytes_to_unicode."""
    path = checkpoint()
    export(path, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert type(tokenizer).__name__.startswith("GPT2Tokenizer")
    assert (len(tokenizer), tokenizer.model_max_length) == (257, LENGTH)
    assert {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} == {256}
    every = "".join(map(chr, range(0x100))) + "\u0800\u1000\ud7ff\ue000\uffff\U00010000\U0010ffff"
    for text in (*PLAIN_TEXTS, every):
        assert tokenizer.encode(text) == list(text.encode()), text
        assert tokenizer.decode(list(text.encode())) == text, text
    for byte in range(256):  # also those that UTF-8 does not have
        piece = tokenizer.convert_ids_to_tokens(byte)
        assert byte_of_characters()[piece] == byte
        assert tokenizer.decode([byte]) == bytes([byte]).decode(errors="replace")
    assert tokenizer.encode(f"{END}a{END}") == [256, 97, 256]
    assert tokenizer.decode([256, 97, 256], skip_special_tokens=True) == "a"
    # a folder without tokenizer.json, as other programs read it
    (tmp_path / "out/tokenizer.json").unlink()
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").encode("a b\n") == list(b"a b\n")


def test_the_printed_python_lines(checkpoint, tmp_path, capsys):
    """The model's text is that of `sample`."""
    path = checkpoint()
    export(path, tmp_path / "out")
    lines = capsys.readouterr().out.split("use it in Python:\n")[1]
    exec(textwrap.dedent(lines), {})
    printed = capsys.readouterr().out
    tokens = llmc.load(path, batch_size=1).generate([256, *b"The"], 40, temperature=0)
    text = bytes(token for token in tokens[: tokens.index(256) if 256 in tokens else 40]).decode(errors="replace")
    assert printed.removesuffix("\n").removesuffix(END) == f"{END}The{text}"


def test_gpt2(tmp_path):
    """A GPT-2 whose vocabulary is beside it; its tokens are those of tiktoken."""
    tiktoken = pytest.importorskip("tiktoken")
    if not (SHARED / "gpt2.tiktoken").exists():
        pytest.skip("../shared/data/gpt2.tiktoken is not there")
    from tiktoken.load import load_tiktoken_bpe

    model = llmc.GPT2(depth=1, width=8, heads=1, seq_len=16, batch_size=1, vocab_size=50304)
    ranks = load_tiktoken_bpe(str(shutil.copy(SHARED / "gpt2.tiktoken", tmp_path)))
    BpeTable([*sorted(ranks, key=ranks.get), END.encode()], 50256).save(tmp_path / "tokenizer.bin")
    model.save(tmp_path / "run", tokenizer=tmp_path / "tokenizer.bin")
    export(tmp_path / "run", tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (len(tokenizer), tokenizer.eos_token_id) == (50257, 50256)
    encoding = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str(), mergeable_ranks=ranks, special_tokens={END: 50256})
    for text in PLAIN_TEXTS:
        assert tokenizer.encode(text) == encoding.encode_ordinary(text), text
        assert tokenizer.decode(tokenizer.encode(text)) == text, text
    assert load(tmp_path / "out").transformer.wte.weight.shape[0] == 50257


def r50k_pat_str():
    from tiktoken_ext.openai_public import r50k_pat_str as found

    return found


def test_an_unknown_tokenizer(tmp_path, capsys):
    """No tokenizer, and no number that would be one: without the keys transformers would say 50256."""
    llmc.GPT2(depth=1, width=8, heads=1, seq_len=16, batch_size=1, vocab_size=40).save(tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out")
    text = capsys.readouterr().out
    assert "no tokenizer files: the checkpoint does not say which tokenizer made its tokens" in text
    assert "AutoTokenizer" not in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors")
    }
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert [config.bos_token_id, config.eos_token_id, config.pad_token_id] == [None, None, None]


def test_weights_of_another_project(tmp_path, capsys):
    """Padded, and with unscaled attention, which transformers 4.57.1 computes only as part of the weights."""
    weights = {name: 0.3 * value if "c_attn" in name else value for name, value in random_weights().items()}
    weights["wte.weight"] = torch.cat([weights["wte.weight"], torch.ones(30, WIDTH)])
    source = write(tmp_path / "source", weights, CONFIG | {"scale_attn_weights": False})
    export(source, tmp_path / "out")
    text = capsys.readouterr().out
    assert f"folded  scale attention 1 (GPT-2: {32**-0.5:g})" in text
    assert f"note    vocabulary of {VOCAB} of the {VOCAB + 30} rows of wte.weight, as {source}/config.json says" in text
    assert "of another project" in (tmp_path / "out/README.md").read_text()
    tokens = torch.arange(17) * 7 % VOCAB
    with torch.no_grad():
        logits = load(tmp_path / "out")(tokens[None, :-1]).logits[0]
    weights["wte.weight"] = weights["wte.weight"][:VOCAB]
    loss = torch.nn.functional.cross_entropy(logits, tokens[1:]).item()
    assert loss == pytest.approx(reference_loss(weights, tokens, scale=1.0), abs=1e-4)
    (source / "config.json").unlink()
    with pytest.raises(UsageError, match="says the number of heads"):
        export(source, tmp_path / "guess")


# --- The folder ---


def test_an_existing_folder_is_not_overwritten(checkpoint, tmp_path):
    path, out = checkpoint(), tmp_path / "out"
    out.mkdir()
    export(path, out)  # it was empty
    with pytest.raises(UsageError, match="exists: choose another folder, or give --overwrite"):
        export(path, out)
    before = (out / "model.safetensors").read_bytes()
    export(path, out, "--overwrite", "--dtype", "bf16")
    assert (out / "model.safetensors").read_bytes() != before
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"out is not deleted, because it holds notes.txt"):
        export(path, out, "--overwrite")
    assert (out / "notes.txt").exists()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out", "run"]


@pytest.mark.parametrize("kind", ["checkpoint", "fine-tuned", "file", "other", "folder"])
def test_overwrite_deletes_nothing_else(checkpoint, tmp_path, kind):
    path, out = checkpoint(), tmp_path / "other"
    if kind == "checkpoint":
        out = path.parent
    elif kind == "fine-tuned":  # what transformers saves of an export has the same names
        export(path, tmp_path / "first")
        load(tmp_path / "first").save_pretrained(out)
    elif kind == "file":
        out.write_text("mine")
    elif kind == "folder":  # with the name of a file
        export(path, out)
        (out / "vocab.json").unlink()
        (out / "vocab.json").mkdir()
        (out / "vocab.json/notes").write_text("mine")
    else:
        out.mkdir()
        (out / "README.md").write_text("mine")
    before = {item: item.read_bytes() for item in out.parent.rglob("*") if item.is_file()}
    with pytest.raises(UsageError, match=r"is not deleted, because it holds|exists: name a folder"):
        export(path, out, "--overwrite")
    assert {item: item.read_bytes() for item in out.parent.rglob("*") if item.is_file()} == before


def test_weights_are_not_exported_into_their_own_folder(checkpoint, tmp_path):
    out = tmp_path / "out"
    export(checkpoint(), out)
    before = sorted(item.name for item in out.iterdir())
    with pytest.raises(UsageError, match=r"out holds the weights to read, .*: choose another folder"):
        export(out, out, "--overwrite", "--dtype", "bf16")
    assert sorted(item.name for item in out.iterdir()) == before


def test_a_checkpoint_that_lacks_a_tensor(checkpoint, tmp_path):
    path = checkpoint()
    tensors, metadata = load_file(path), open_checkpoint(path).files.metadata
    del tensors["h.1.ln_2.bias"]
    save_file(tensors, path, metadata)
    with pytest.raises(DamageError, match=r"has no tensor 'h.1.ln_2.bias'"):
        export(path, tmp_path / "out")


def test_a_folder_whose_name_is_not_utf8(checkpoint, tmp_path):
    out = tmp_path / os.fsdecode(b"caf\xe9")
    export(checkpoint(), out)
    assert "# caf\ufffd\n" in (out / "README.md").read_text()
    assert (out / "tokenizer.json").exists()


def test_a_failure_leaves_the_earlier_export(checkpoint, tmp_path, monkeypatch):
    path, out = checkpoint("--parametrization", "sp"), tmp_path / "out"
    export(path, out)
    before = (out / "model.safetensors").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf_files, "write_config", full)
    with pytest.raises(Error, match=r"cannot write .*out: .*No space left on device"):
        export(path, out, "--overwrite", "--dtype", "bf16")
    assert (out / "model.safetensors").read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out", "run"]


def test_what_cannot_be_represented_is_refused(checkpoint, tmp_path):
    with pytest.raises(DataError, match="embedding multiplier 0 and a tied head"):
        export(checkpoint("--parametrization", "sp", "--embed-mult", "0"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- What is said ---


def test_the_model_card(data, tmp_path, capsys):
    """Facts of checkpoint and log, for readers and as YAML."""
    options = "--parametrization mup --base-width 16 --steps 4 --eval-every 2 --threads 1".split()
    run("--train-data", data, "--val-data", data, *SHAPE, *options, "--out", tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    events = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    final = events[-1]
    assert front["library_name"] == "transformers"
    assert front["tags"] == ["gpt2", "mup"]
    facts = front["llmc_mup"]
    assert (facts["base_width"], facts["width"], facts["width_multiplier"]) == (16, 64, 4)
    assert (facts["steps"], facts["tokens"]) == (4, 4 * 2 * LENGTH)
    assert (facts["validation_loss"], facts["bits_per_byte"]) == (final["val_loss"], final["bits_per_byte"])
    assert facts["hardware"] == events[0]["provenance"]["device"]
    assert facts["commit"] == events[0]["provenance"]["commit"]
    assert facts["parameters"] == sum(parameter.numel() for parameter in load(tmp_path / "out").parameters())
    metrics = {metric["type"]: metric["value"] for metric in front["model-index"][0]["results"][0]["metrics"]}
    assert metrics == {"loss": final["val_loss"], "bits_per_byte": final["bits_per_byte"]}
    assert "license" not in front
    assert f"    {events[0]['command']}" in card.splitlines()
    assert f"| validation loss | {final['val_loss']:.6g} |" in card.splitlines()
    assert "text_000.bin: 5,001 tokens" in card


def test_the_card_is_of_the_checkpoints_step(data, tmp_path):
    """Not of the run that went on from it: its command and losses are of later checkpoints."""
    options = [
        "--train-data",
        data,
        "--val-data",
        data,
        *SHAPE,
        "--eval-every",
        1,
        "--checkpoint-every",
        2,
        "--threads",
        1,
    ]
    out = ["--keep", 9, "--out", tmp_path / "run"]
    run(*options, *out, "--steps", 2)
    run(*options, *out, "--steps", 4, "--lr", "5e-4", "--resume")
    events = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    losses = {event["step"]: event["val_loss"] for event in events if event["event"] == "eval"}
    commands = [event["command"] for event in events if event["event"] == "config"]
    for step, command in ((2, commands[0]), (4, commands[1])):
        export(tmp_path / f"run/checkpoints/step_{step:08}", tmp_path / f"of{step}")
        card = (tmp_path / f"of{step}/README.md").read_text()
        assert [line for line in card.splitlines() if "--train-data" in line] == [f"    {command}"]
        facts = yaml.safe_load(card.split("---\n")[1])["llmc_mup"]
        assert (facts["steps"], facts["validation_loss"]) == (step, losses[step])


def test_a_card_takes_nothing_from_a_log_of_others(data, tmp_path):
    """Python saved into the folder of a run."""
    options = ["--train-data", data, "--val-data", data, *SHAPE, "--eval-every", 1, "--threads", 1, "--steps", 1]
    run(*options, "--out", tmp_path / "run")
    model = llmc.load(tmp_path / "run", resume=True)
    shutil.rmtree(tmp_path / "run/checkpoints")
    model.save(tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "| steps | 1 |" in card
    assert f"| program | llmc.GPT2 {llmc.__version__} |" in card
    assert "| started |" not in card
    assert "Command:" not in card
    assert "validation loss" not in card


def test_a_card_without_a_log_has_no_losses(checkpoint, tmp_path):
    path = checkpoint()
    shutil.copytree(path.parent, tmp_path / "alone")
    (tmp_path / "alone/optimizer.safetensors").unlink()
    export(tmp_path / "alone", tmp_path / "out")
    facts = yaml.safe_load((tmp_path / "out/README.md").read_text().split("---\n")[1])["llmc_mup"]
    assert not {"loss_of_the_last_step", "validation_loss", "data", "tokens"} & set(facts)
    assert facts["parametrization"] == "sp"


def test_what_is_printed(checkpoint, tmp_path, capsys):
    export(checkpoint(*CASES["u-mup"], "--vocab-size", "300"), tmp_path / "out")
    text = capsys.readouterr().out
    assert re.search(r"folded  u-mup: .*scale output 0.015625 \(GPT-2: 1\)", text)
    assert re.search(r"attention branch of the blocks [0-9.]+ to [0-9.]+ \(GPT-2: 1\)", text)
    assert "note    layer norms have the epsilon 1e-05, which in the trained model" in text
    assert "note    vocabulary cut from 300 rows to the 257 tokens of byte" in text
    assert re.search(r"wrote   \S+/out: model.safetensors, fp32, [0-9,]+ bytes, head untied", text)


def test_the_command_from_a_clone(checkpoint, tmp_path):
    """A usage error is one line."""
    command = [sys.executable, str(ROOT / "dev/export_hf.py")]
    done = subprocess.run([*command, "gone", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "error: there is no checkpoint at gone\n")
