"""dev/import_hf.py: weights as people have them become a folder that both programs, llmc.load and transformers take.
And vocabularies with padding and byte vocabularies, which --init reads itself."""

import argparse
import json
import os
import struct
import subprocess
import sys

import pytest
import torch
from both_programs import original, twin
from program import BINARY, ROOT
from safetensors.torch import load_file
from shards import random_text, write_shard, write_text_shards
from weight_tools import CONFIG, HEADS, LENGTH, VOCAB, WIDTH, prefixed, random_weights, reference_loss, write

import llmc
from llmc.bpe_table import BpeTable, byte_table, json_of_bytes
from llmc.errors import DataError, UsageError
from llmc.export import hf, import_hf

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif("cpu" not in llmc.backends() or not BINARY.exists(), reason="not built: run make"),
]
PADDED = VOCAB + 31
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def take(source, out, *options):
    """The imported tensors."""
    assert import_hf.main([str(source), str(out), *options]) == 0
    return {name: value for file in sorted(out.glob("model*.safetensors")) for name, value in load_file(file).items()}


def torch_file(path, tensors, config=CONFIG, **options):
    path.parent.mkdir(exist_ok=True)
    torch.save(tensors, path, **options)
    (path.parent / "config.json").write_text(json.dumps(config))
    return path.parent


def padded(weights, head=False):
    more = torch.full((PADDED - VOCAB, WIDTH), 7.0)
    names = ["wte.weight", *(["lm_head.weight"] if head else [])]
    return weights | {name: torch.cat([weights[name], more]) for name in names}


def masks(weights):
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()[None, None]
    return weights | {"h.0.attn.bias": mask, "h.1.attn.masked_bias": torch.tensor(-1e4)}


def shards(folder, weights, kind):
    """Two files and their index; kind: safetensors or bin"""
    names, places = sorted(weights), {}
    for number in (1, 2):
        stem = "model" if kind == "safetensors" else "pytorch_model"
        file = f"{stem}-0000{number}-of-00002.{kind}"
        part = {name: weights[name] for name in names[number - 1 :: 2]}
        places |= dict.fromkeys(part, file)
        write(folder, part, CONFIG, file) if kind == "safetensors" else torch_file(folder / file, part)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


HEAD = {"lm_head.weight": random_weights(1)["wte.weight"]}
TIED_HEAD = {"lm_head.weight": random_weights()["wte.weight"]}
FORMS = {
    "bare names": lambda f, w: write(f, w, CONFIG),
    "prefix": lambda f, w: write(f, prefixed(w), CONFIG, metadata={"format": "pt"}),
    "head of the embedding": lambda f, w: write(f, prefixed(w) | TIED_HEAD, CONFIG),
    "masks": lambda f, w: write(f, prefixed(masks(w)), CONFIG),
    "files with an index": lambda f, w: shards(f, prefixed(w), "safetensors"),
    "padded": lambda f, w: write(f, padded(w), CONFIG),
    "padded, with a head": lambda f, w: write(f, padded(w | TIED_HEAD, head=True), CONFIG),
    "bin": lambda f, w: torch_file(f / "pytorch_model.bin", prefixed(masks(w))),
    "bin, padded, tied": lambda f, w: torch_file(
        f / "pytorch_model.bin", (p := padded(w)) | {"lm_head.weight": p["wte.weight"]}
    ),
    "old bin": lambda f, w: torch_file(f / "pytorch_model.bin", w, _use_new_zipfile_serialization=False),
    "transposed bin": lambda f, w: torch_file(
        f / "pytorch_model.bin", {n: v.T.contiguous().T if v.ndim == 2 else v for n, v in w.items()}
    ),
    "bins with an index": lambda f, w: shards(f, w, "bin"),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_become_one(form, tmp_path):
    weights = random_weights()
    found = take(FORMS[form](tmp_path / "source", weights), tmp_path / "out")
    assert set(found) == set(prefixed(weights))
    for name, value in weights.items():
        assert torch.equal(found["transformer." + name], value), name


def test_an_untied_head(tmp_path):
    weights = padded(random_weights() | HEAD, head=True)
    config = CONFIG | {"tie_word_embeddings": False}
    found = take(torch_file(tmp_path / "source/pytorch_model.bin", weights, config), tmp_path / "out")
    assert torch.equal(found["lm_head.weight"], HEAD["lm_head.weight"])
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("dtype", DTYPES)
def test_import_export_import_keeps_every_bit(dtype, tmp_path):
    weights = {name: value.to(DTYPES[dtype]) for name, value in (random_weights() | HEAD).items()}
    config = CONFIG | {"tie_word_embeddings": False}
    first = take(torch_file(tmp_path / "source/pytorch_model.bin", weights, config), tmp_path / "first")
    assert hf.main([str(tmp_path / "first"), str(tmp_path / "exported")]) == 0
    assert json.loads((tmp_path / "exported/config.json").read_text())["dtype"] == str(DTYPES[dtype])[6:]
    second = take(tmp_path / "exported", tmp_path / "second")
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype == DTYPES[dtype]
        assert torch.equal(value, second[name]), name
        assert torch.equal(value, weights[name.removeprefix("transformer.")]), name


def test_several_dtypes_become_fp32(tmp_path):
    weights = random_weights()
    weights["wte.weight"] = weights["wte.weight"].half()
    found = take(write(tmp_path / "source", weights, CONFIG), tmp_path / "out")
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert torch.equal(found["transformer.wte.weight"], weights["wte.weight"].float())


@pytest.mark.parametrize("scaled", [True, False])
def test_what_was_imported_runs(scaled, tmp_path):
    """In both programs, in Python and in transformers: the loss of the source."""
    import transformers

    weights = {name: 0.3 * value if "c_attn" in name else value for name, value in random_weights().items()}
    config = CONFIG | {"scale_attn_weights": scaled}
    source = torch_file(tmp_path / "source/pytorch_model.bin", padded(weights), config)
    (source / "vocab.json").write_text(json.dumps(json_of_bytes()))
    out = tmp_path / "out"
    take(source, out)
    tokens = torch.randint(0, VOCAB, (LENGTH + 1,), generator=torch.Generator().manual_seed(1))
    wanted = pytest.approx(reference_loss(weights, tokens, scale=None if scaled else 1.0), abs=1e-4)
    assert llmc.load(out).forward(tokens[None, :-1].numpy(), tokens[None, 1:].numpy()) == wanted
    model = transformers.AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager")
    with torch.no_grad():
        logits = model(tokens[None, :-1]).logits[0]
    assert torch.nn.functional.cross_entropy(logits, tokens[1:]).item() == wanted
    val = write_shard(tmp_path / "val.bin", tokens.numpy(), VOCAB)
    samples = set()
    for program in (original, twin):
        code, text, _ = program(["eval", str(out), "--val-data", str(val), "--threads", "1"])
        assert code == 0
        assert float(text.split("loss    ")[1].split()[0]) == wanted
        code, text, _ = program(
            ["sample", str(out), "--prompt", "a", "--temperature", "0", "--sample-tokens", "6", "--threads", "1"]
        )
        assert code == 0, "tokenizer.bin says that the tokens are bytes"
        samples.add(text)
    assert len(samples) == 1


def test_what_is_printed(tmp_path, capsys):
    source = torch_file(tmp_path / "source/pytorch_model.bin", padded(random_weights()))
    take(source, tmp_path / "out")
    text = capsys.readouterr().out
    assert f"model   depth 2, width 128, heads 4 x 32, positions 16, vocabulary {VOCAB}, head tied\n" in text
    note = f"vocabulary of {VOCAB} of the {PADDED} rows of wte.weight, as {source}/config.json says"
    assert f"note    {note}\n" in text
    assert "note    no tokenizer.bin: no vocabulary of GPT-2 is beside the weights" in text
    assert f"wrote   {tmp_path}/out: model.safetensors, fp32," in text
    assert text.endswith(f"use it: ./train_gpt2 --init {tmp_path}/out ...\n")


# --- What is refused ---


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation_function": "gelu"}, 'activation_function = "gelu": this program has the GELU by tanh'),
        ({"model_type": "opt"}, 'model_type = "opt": this program has GPT-2'),
        ({"vocab_size": VOCAB + 1}, f"vocab_size = {VOCAB + 1}, the weights beside it have {VOCAB} rows"),
    ],
)
def test_another_model_is_refused_by_its_configs_value(tmp_path, change, words):
    source = torch_file(tmp_path / "source/pytorch_model.bin", random_weights(), CONFIG | change)
    with pytest.raises(DataError, match=words):
        take(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": random_weights(), "step": 3}, "has 'model', a dict and no tensor: save the model's state_dict"),
        ([torch.ones(2)], "holds no dictionary of tensors but list"),
        (
            {"wte.weight": torch.ones(2), "arguments": argparse.Namespace(a=1)},
            r"more than tensors, [^()]* \(Unsupported [^()]*argparse.Namespace[^()]*\)",
        ),
        ({name: value.double() for name, value in random_weights().items()}, "has dtype F64"),
        (random_weights() | {"wpe.weight": torch.eye(WIDTH).to_sparse()}, "'wpe.weight', a tensor that is sparse_coo"),
        (random_weights() | {"wpe.weight": torch.eye(WIDTH, device="meta")}, "a tensor that is without numbers"),
    ],
    ids=["training state", "list", "class", "double", "sparse", "meta"],
)
def test_other_files_of_torch(tmp_path, content, words):
    with pytest.raises(DataError, match=words):
        take(torch_file(tmp_path / "source/pytorch_model.bin", content), tmp_path / "out")


@pytest.mark.parametrize(
    "error", [KeyError("3"), AssertionError(), IndexError("pop"), struct.error("4 bytes")], ids=repr
)
def test_damaged_files_of_torch(tmp_path, monkeypatch, error):
    """Some of what the reader of PyTorch 2.13 raises for files with changed bytes."""

    def load(*_, **options):
        assert options["weights_only"]
        raise error

    source = torch_file(tmp_path / "source/pytorch_model.bin", random_weights())
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(DataError, match=r"pytorch_model.bin cannot be read as a file of torch.save"):
        take(source, tmp_path / "out")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"wte.weight": "pipe.bin"}}')
    with pytest.raises(DataError, match=r"there is no file .*pipe\.bin"):
        take(tmp_path, tmp_path / "out")


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match="there is no file or folder"):
        take(tmp_path / "gone", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds none of model.safetensors, .*, pytorch_model.bin, "):
        take(tmp_path / "empty", tmp_path / "out")
    for beginning, words in (
        (b"GGUF\3", "it is a GGUF"),
        (b"version https://git-lfs", "it is a pointer of"),
        (b"a", "$"),
    ):
        (tmp_path / "a.bin").write_bytes(beginning)
        with pytest.raises(DataError, match=rf"a.bin is no file of torch.save(: )?{words}"):
            take(tmp_path / "a.bin", tmp_path / "out")
    (tmp_path / "a.bin").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(DataError, match=r"a.bin cannot be read as a file of torch.save"):
        take(tmp_path / "a.bin", tmp_path / "out")
    data = write_text_shards(tmp_path / "data", random_text(3000), shards=1)
    assert twin(["--train-data", data, "--depth", "1", "--width", "8", "--heads", "1", "--seq-len", "8",
                 "--batch-size", "1", "--steps", "0", "--out", str(tmp_path / "run")])[0] == 0  # fmt: skip
    checkpoint = next((tmp_path / "run/checkpoints").iterdir())
    with pytest.raises(DataError, match="is a checkpoint of this project, which needs no import"):
        take(checkpoint, tmp_path / "out")
    with pytest.raises(DataError, match="run is the folder of a run, which needs no import"):
        take(tmp_path / "run", tmp_path / "out")


def test_heads_are_not_guessed(tmp_path):
    source = torch_file(tmp_path / "source/pytorch_model.bin", random_weights())
    with pytest.raises(UsageError, match=r"--heads 2: the config.json beside .* says 4"):
        take(source, tmp_path / "out", "--heads", "2")
    (source / "config.json").unlink()
    with pytest.raises(UsageError, match="says the number of heads: give --heads"):
        take(source, tmp_path / "out")
    with pytest.raises(UsageError, match="--heads 3 does not divide the width 128"):
        take(source, tmp_path / "out", "--heads", "3")
    take(source, tmp_path / "out", "--heads", str(HEADS))
    assert json.loads((tmp_path / "out/config.json").read_text())["n_head"] == HEADS


def test_an_existing_folder_is_not_overwritten(tmp_path):
    source, out = write(tmp_path / "source", random_weights(), CONFIG), tmp_path / "out"
    take(source, out)
    with pytest.raises(UsageError, match="exists: choose another folder, or give --overwrite"):
        take(source, out)
    take(source, out, "--overwrite")
    with pytest.raises(UsageError, match="is not deleted, because it holds"):
        take(out, source, "--overwrite")
    with pytest.raises(UsageError, match=r"holds the weights to read, .*: choose another folder"):
        take(out, out, "--overwrite")


def test_special_tokens_of_another_project_stay(tmp_path):
    """Without them, generate() of transformers would not end where the model ends."""
    ids = {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 4}
    source = write(tmp_path / "source", random_weights(), CONFIG | ids)
    take(source, tmp_path / "out")
    hf.main([str(source), str(tmp_path / "exported")])
    for folder in (tmp_path / "out", tmp_path / "exported"):
        config = json.loads((folder / "config.json").read_text())
        assert ids == {key: config[key] for key in ids}
        assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2, 3]


def test_both_programs_name_the_command(tmp_path):
    """And it runs as it is printed."""
    source = torch_file(tmp_path / "source/pytorch_model.bin", random_weights())
    (tmp_path / "dev").symlink_to(ROOT / "dev")
    said = {program(["--init", str(source), "--steps", "0"])[2] for program in (original, twin)}
    assert len(said) == 1
    advice = f"dev/import_hf.py {source}/pytorch_model.bin OUT makes safetensors of it"
    assert advice in said.pop()
    command = [sys.executable, *advice.split(" makes")[0].split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "wrote   OUT: model.safetensors" in done.stdout


# --- What --init, sample and eval read themselves ---


@pytest.mark.parametrize("program", [original, twin])
def test_padding_is_cut_with_a_note(tmp_path, program):
    tokens = torch.randint(0, VOCAB, (LENGTH + 1,), generator=torch.Generator().manual_seed(1))
    val = write_shard(tmp_path / "val.bin", tokens.numpy(), VOCAB)
    weights = random_weights()
    cases = {
        "tied": (weights, CONFIG, None),
        "untied": (weights | HEAD, CONFIG | {"tie_word_embeddings": False}, HEAD["lm_head.weight"]),
        "equal": (weights | TIED_HEAD, CONFIG, None),
    }
    for name, (tensors, config, head) in cases.items():
        model = write(tmp_path / name, padded(tensors, head="lm_head.weight" in tensors), config)
        note = f"vocabulary of {VOCAB} of the {PADDED} rows of wte.weight, as {model}/config.json says"
        out = tmp_path / f"run {name}"
        words = ["--init", str(model), "--val-data", str(val), "--steps", "0", "--threads", "1", "--batch-size", "1"]
        code, text, errors = program([*words, "--out", str(out)])
        assert code == 0
        assert note in text + errors
        final = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
        assert final["val_loss"] == pytest.approx(reference_loss(weights, tokens, head=head), abs=1e-4)
        saved = load_file(next((out / "checkpoints").iterdir()) / "model.safetensors")
        assert saved["wte.weight"].shape == (VOCAB, WIDTH)
        assert note in program(["info", str(model)])[1]


def test_padding_in_python(tmp_path):
    model = write(tmp_path / "model", padded(random_weights()), CONFIG)
    with pytest.warns(UserWarning, match=f"vocabulary of {VOCAB} of the {PADDED} rows"):
        loaded = llmc.load(model)
    assert loaded.config["vocab_size"] == VOCAB


VOCABULARIES = {
    "vocab.json": lambda folder: (folder / "vocab.json").write_text(json.dumps(json_of_bytes())),
    "tokenizer.json": lambda folder: (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "BPE", "vocab": json_of_bytes(), "merges": []}})
    ),
    "tokenizer.bin": lambda folder: byte_table().save(folder / "tokenizer.bin"),
}


@pytest.mark.parametrize("program", [original, twin])
@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_byte_vocabulary_is_known(tmp_path, name, program):
    model = write(tmp_path / "model", random_weights(), CONFIG)
    assert "tokens  of the tokenizer unknown" in program(["info", str(model)])[1]
    VOCABULARIES[name](model)
    assert "tokens  of the tokenizer byte" in program(["info", str(model)])[1]
    code, text, _ = program(["sample", str(model), "--prompt", "é", "--sample-tokens", "3", "--threads", "1"])
    assert code == 0
    assert text.startswith("é")


@pytest.mark.parametrize("program", [original, twin])
def test_gpt2s_vocabulary_beside_padded_weights(tmp_path, program):
    """50,304 rows and no config.json that says which are padding, as llm.c and nanoGPT have them."""
    shapes = {"wte.weight": [50304, 8], "wpe.weight": [4, 8]}
    block = {"attn.c_attn": 24, "attn.c_proj": 8, "mlp.c_fc": 32, "mlp.c_proj": 8}
    for name, columns in block.items():
        rows = 32 if name == "mlp.c_proj" else 8
        shapes |= {f"h.0.{name}.weight": [rows, columns], f"h.0.{name}.bias": [columns]}
    shapes |= {f"{name}.{kind}": [8] for name in ("h.0.ln_1", "h.0.ln_2", "ln_f") for kind in ("weight", "bias")}
    model = write(tmp_path / "model", {name: torch.ones(shape) for name, shape in shapes.items()}, {"n_head": 1})
    assert "tokens  of the tokenizer unknown" in program(["info", str(model)])[1]
    BpeTable([*(b"%d" % i for i in range(50256)), b"<|endoftext|>"], 50256).save(model / "tokenizer.bin")
    assert "tokens  of the tokenizer gpt2" in program(["info", str(model)])[1]


def swapped(vocabulary):
    return vocabulary | {"a": vocabulary["b"], "b": vocabulary["a"]}


@pytest.mark.parametrize("program", [original, twin])
def test_other_vocabularies_of_257_tokens_are_unknown(tmp_path, program):
    model = write(tmp_path / "model", random_weights(), CONFIG)
    right, table = json_of_bytes(), byte_table()
    end_first = {text: (number + 1) % 257 for text, number in right.items()}
    for vocabulary in (swapped(right), end_first, right | {"a": 97.0}, right | {"a": "97"}, {**right, "zz": 1}, [], 7):
        (model / "vocab.json").write_text(json.dumps(vocabulary))
        assert "tokens  of the tokenizer unknown" in program(["info", str(model)])[1], vocabulary
    (model / "vocab.json").unlink()
    for other in (BpeTable(table.pieces[::-1], 0), BpeTable(table.pieces, 10), BpeTable(table.pieces[:256], 255)):
        other.save(model / "tokenizer.bin")
        assert "tokens  of the tokenizer unknown" in program(["info", str(model)])[1]
    (model / "tokenizer.bin").write_bytes(b"no table")
    assert "tokens  of the tokenizer unknown" in program(["info", str(model)])[1]


def test_an_export_of_ours_goes_on_training(tmp_path):
    """Its tokens are bytes in both programs, and its weights those of the trained model."""
    data = write_text_shards(tmp_path / "data", random_text(5000), shards=1)
    model = "--depth 1 --width 32 --heads 2 --seq-len 16 --batch-size 2 --threads 1".split()
    words = ["--train-data", data, "--val-data", data, *model]
    mup = "--parametrization mup --base-width 8 --base-heads 2 --lr 1e-2 --steps 3".split()
    assert original([*words, *mup, "--out", str(tmp_path / "run")])[0] == 0
    assert hf.main([str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    losses = []
    for program in (original, twin):
        code, text, _ = program(["eval", str(tmp_path / "out"), "--val-data", data, "--threads", "1"])
        assert code == 0
        losses.append(float(text.split("loss    ")[1].split()[0]))
        out = tmp_path / program.__name__
        code, _, _ = program(
            ["--init", str(tmp_path / "out"), *words[:4], *model[-4:], "--steps", "1", "--out", str(out)]
        )
        assert code == 0
        assert "tokens  of the tokenizer byte" in program(["info", str(out)])[1]
    final = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    assert losses == pytest.approx([final["val_loss"]] * 2, abs=1.5e-4)  # printed with four digits
    assert hf.main([str(tmp_path / "twin"), str(tmp_path / "tuned")]) == 0
    assert f"| initial weights | {tmp_path}/out |" in (tmp_path / "tuned/README.md").read_text()
