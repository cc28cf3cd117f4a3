"""GPT-2 as transformers writes it: one file or several with an index, names with or without "transformer.", a head of
its own or that of wte, attention masks and other tensors that are not used."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from llmc.config_json import read_config_json
from llmc.errors import DataError
from llmc.weight_files import WeightFiles

HEAD = "lm_head.weight"
OF_BLOCK = {
    *(f"{part}.{kind}" for part in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2") for kind in ("weight", "bias")),
    *(f"{part}.{kind}" for part in ("mlp.c_fc", "mlp.c_proj") for kind in ("weight", "bias")),
    *("attn.bias", "attn.masked_bias"),  # masks, which are not read
}
NANOGPT = (
    "transpose c_attn, c_proj and c_fc, and add biases of 0 if there are none. If it was trained with nanoGPT's GELU, "
    "which is not by tanh, it is still another function"
)


@dataclass
class ForeignModel:
    """What the tensors and the config.json beside them say."""

    prefix: str  # of all names but the head's
    head: str  # "": the file has none
    wte: str  # the head's name, if the file has that alone
    depth: int
    width: int
    heads: int
    max_seq_len: int
    rows: int  # of wte and head in the file
    vocab_size: int  # of them, those that are not padding
    tied: bool
    heads_known: bool
    scaled_attention: bool  # False: logits q.k, without 1/sqrt(head size)
    head_optional: bool  # the file has a head that equals wte: tied or not, as one likes
    tie_note: str = ""  # that the head is assumed to be the embedding, too; else empty
    cut_note: str = ""  # that rows of padding are left out; else empty

    def stored_name(self, name: str) -> str:
        return {HEAD: self.head, "wte.weight": self.wte}.get(name, self.prefix + name)


def read_foreign(files: WeightFiles) -> ForeignModel:
    """DataError for a layout or a config.json that this program does not have."""
    prefix = _prefix(files)
    head, wte = _find_head(files, prefix)
    (V, C), (T, _) = _matrix(files, "wte.weight", wte), _matrix(files, "wpe.weight", prefix + "wpe.weight")
    depth = 0
    while f"{prefix}h.{depth}.ln_1.weight" in files:
        depth += 1
    if depth == 0:
        raise DataError(f"{files.path} has no tensor '{prefix}h.0.ln_1.weight': it is not a GPT-2 checkpoint")
    if _is_out_in(files, prefix):
        raise DataError(
            f"{files.path} has the layout of nanoGPT: {prefix}h.0.attn.c_attn.weight is (out, in), {3 * C} x {C}, "
            f"where GPT-2's files have (in, out): {NANOGPT}"
        )
    if f"{prefix}h.0.ln_1.bias" not in files:
        raise DataError(
            f"{files.path} has no tensor '{prefix}h.0.ln_1.bias': a GPT-2 without biases, as nanoGPT's bias=False "
            "makes; add biases of 0"
        )
    sizes = {"n_layer": depth, "n_embd": C, "n_positions": T, "vocab_size": V}
    config = read_config_json(files.path.parent, sizes)
    _refuse_other_tensors(files, prefix, depth, {head, wte})
    heads = config.heads if config else None
    model = ForeignModel(
        prefix, head, wte, depth, C, heads or max(1, C // 64), T, V, V, True, heads is not None, True, False
    )
    if config:
        model.scaled_attention = config.scale_attention
        model.vocab_size = config.vocab_size or V
        if model.vocab_size < V:
            model.cut_note = f"vocabulary of {model.vocab_size} of the {V} rows of {wte}, as {config.path} says"
    _choose_head(model, files, config.tied if config else None, str(config.path) if config else "")
    return model


def _prefix(files: WeightFiles) -> str:
    """Of the names."""
    for prefix in ("", "transformer."):
        if prefix + "wte.weight" in files or prefix + "wpe.weight" in files:
            return prefix
    first = "h.0.ln_1.weight"
    for name in files.names():
        if name.endswith("." + first) and name != "transformer." + first:
            prefix = name.removesuffix(first)
            nanogpt = f"; its matrices are (out, in), as in nanoGPT: {NANOGPT}" if _is_out_in(files, prefix) else ""
            module = prefix.removesuffix("transformer.") if prefix.endswith(".transformer.") else prefix
            raise DataError(
                f"{files.path} has names that begin with {prefix}, as the checkpoints of a compiled, parallel or other "
                f"module around the GPT-2 in PyTorch: save model.{module}state_dict(){nanogpt}"
            )
    return ""


def _find_head(files: WeightFiles, prefix: str) -> tuple[str, str]:
    """The names of head and embedding. Of a matrix that is both, safetensors.torch.save_model keeps the first name: the
    head's."""
    head, wte = "", prefix + "wte.weight"
    for name in (prefix + HEAD, HEAD):
        head = name if name in files else head
    return head, wte if wte in files or not head else head


def _is_out_in(files: WeightFiles, prefix: str) -> bool:
    shape = files.shape(prefix + "h.0.attn.c_attn.weight")
    return shape is not None and len(shape) == 2 and shape[0] == 3 * shape[1]


def _refuse_other_tensors(files: WeightFiles, prefix: str, depth: int, taken: set[str]) -> None:
    """DataError for tensors that would take part in the function: those of a GPT-2's parts that a GPT-2 does not have,
    and elsewhere all but whole numbers, masks and scalars."""
    for name in files.names():
        if name in taken:
            continue
        if name in ("lm_head.bias", prefix + "lm_head.bias"):
            raise DataError(f"{files.path} has a tensor '{name}': a GPT-2's head has no bias, it is another model")
        if not name.startswith(prefix + "h."):
            if not _is_outside_of_blocks(files, prefix, name):
                raise DataError(f"{files.path} has a tensor '{name}', which a GPT-2 does not have: it is another model")
            continue
        number, dot, rest = name.removeprefix(prefix + "h.").partition(".")
        known = dot and re.fullmatch("[0-9]{1,6}", number)
        if known and int(number) >= depth:
            raise DataError(
                f"{files.path} has a tensor '{name}', but no '{prefix}h.{depth}.ln_1.weight': a block is missing"
            )
        if not known or rest not in OF_BLOCK:
            raise DataError(f"{files.path} has a tensor '{name}', which a GPT-2 does not have: it is another model")


def _is_outside_of_blocks(files: WeightFiles, prefix: str, name: str) -> bool:
    """Whether a tensor that is in no block may be there."""
    if name in [prefix + known for known in ("wpe.weight", "ln_f.weight", "ln_f.bias")]:
        return True
    if name.removeprefix(prefix).startswith(("wte.", "wpe.", "ln_f.", "lm_head.")):
        return False
    return files.dtype(name).startswith(("BOOL", "I", "U")) or math.prod(files.shape(name) or []) <= 1


def _matrix(files: WeightFiles, name: str, full_name: str) -> list[int]:
    shape = files.shape(full_name)
    if shape is None or len(shape) != 2 or not all(1 <= size <= 1 << 30 for size in shape):
        raise DataError(f"{files.path} has no matrix '{name}': it is not a GPT-2 checkpoint")
    return shape


def _choose_head(model: ForeignModel, files: WeightFiles, tied: bool | None, config: str) -> None:
    """A head equal to wte is a tied one that was written out."""
    if model.wte == model.head:
        _check_lone_head(model, files, tied, config)
        return
    if not model.head:
        if tied is False:
            raise DataError(
                f"{config} says tie_word_embeddings = false, but {files.path} has no tensor '{HEAD}': its head is "
                "missing"
            )
        return
    shape, wte = [model.rows, model.width], model.wte
    same = files.read(model.head, shape).float() == files.read(wte, shape).float()
    model.head_optional = bool(same[: model.vocab_size].all())
    if tied and not model.head_optional:
        raise DataError(
            f"{config} says tie_word_embeddings = true, but {files.path} has a {model.head} that differs from {wte}: "
            "say false there to use it, or remove the tensor"
        )
    model.tied = model.head_optional if tied is None else tied


def _check_lone_head(model: ForeignModel, files: WeightFiles, tied: bool | None, config: str) -> None:
    missing = model.prefix + "wte.weight"
    if tied is False:
        raise DataError(
            f"{config} says tie_word_embeddings = false, but {files.path} has no tensor '{missing}': its embedding is "
            "missing"
        )
    if not config and files.metadata.get(missing) != model.head:  # save_model says there what it left out
        model.tie_note = (
            f"embedding assumed tied to {model.head}, because {files.path} has no {missing} and no config.json is "
            "beside it"
        )
