"""GPT-2 with its optimizer, and the rules of its parametrization."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from os import PathLike, fsdecode
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmc.backend import MODULES, backend
from llmc.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from llmc.config import ModelOptions

Floats = NDArray[np.float32]
Tokens = Sequence[int] | NDArray[Any]


class SampleOptions(TypedDict, total=False):
    """Keyword arguments of GPT2.generate."""

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    stop: str | None
    seed: int
    cache: bool


@cache
def _table() -> list[dict[str, Any]]:
    """The options that a model takes, from the table that train_gpt2 --options-json prints."""
    text = resources.files("llmc").joinpath("options.json").read_text(encoding="utf-8")
    return [option for option in json.loads(text)["options"] if "model" in option["scope"]]


def _native(name: str | None) -> ModuleType:
    """The module of the named backend; without a name, the first that is built: cpu, cuda, emulated."""
    if name is not None:
        return backend(name)
    reasons = []
    for candidate in MODULES:
        try:
            return backend(candidate)
        except ImportError as error:
            reasons.append(str(error))
    raise ImportError(reasons[0])


def _numbers(values: ArrayLike, name: str) -> Floats:
    """float32. UsageError for complex numbers, texts, and lists of different lengths."""
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "cUSMm":
            return array.astype(np.float32)
        problem = f"has the type {array.dtype}"
    except (TypeError, ValueError) as error:
        problem = f"is not an array ({error})"
    raise UsageError(f"{name} {problem}: give real numbers")


def _path(path: str | PathLike[str], name: str = "checkpoint") -> str:
    try:
        return fsdecode(path)
    except TypeError:
        raise UsageError(f"{name} is {path!r}: give a path") from None


def _utf8(text: str, name: str) -> bytes:
    if not isinstance(text, str):
        raise UsageError(f"{name} is {text!r}: give a text")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} is not Unicode text: half of a surrogate pair") from None


def _tokenizer(given: str | PathLike[str] | None) -> str:
    return "" if given is None else _path(given, "tokenizer")


class GPT2:
    """GPT-2 (Radford et al., 2019) with AdamW or SGD under one of the parametrizations of mup.md.

    A training loop:

        model = llmc.GPT2(width=128, depth=2, heads=4, seq_len=64, batch_size=16, vocab_size=257,
                          parametrization="mup", base_width=64, lr=0.01)
        for step, (tokens, targets) in enumerate(batches):   # (B, T) integers each, B <= batch_size, T <= seq_len
            model.zero_grad()
            loss = model.forward(tokens, targets)            # nats per token
            model.backward()
            norm = model.step(schedule=1 - step / steps)     # lr of every tensor times this factor
        model.save("runs/mine")                              # llmc.load("runs/mine") makes the model again

    Text, instead of token ids, for generate, logits and loss:

        model = llmc.load("runs/mine")                       # or llmc.GPT2(..., tokenizer="byte")
        model.generate("Once upon a time", 100, top_p=0.9)
        model.loss("Once upon a time there was a king.")     # nats per token

    Calls from several threads take turns; other threads run while the model computes.

    The keyword arguments are train_gpt2's options with underscores, checked by the same code. UsageError for an unknown
    name, a value out of range, or a combination without a meaning; DataError for a checkpoint that cannot be used.
    backend is "cpu", "cuda" or "emulated" (default: the first that is built). logits_rows: rows of logits in memory at
    a time (0: chosen for the device). tokenizer: "byte", "unknown", "gpt2" with the vocabulary beside the weights of
    init=, or the path of its vocabulary: tokenizer.bin, vocab.json or tokenizer.json (default: that of the weights).
    """

    def __init__(
        self,
        *,
        backend: str | None = None,
        logits_rows: int = 0,
        tokenizer: str | PathLike[str] | None = None,
        **options: Unpack[ModelOptions],
    ) -> None:
        self._native = _native(backend)
        self._model = self._native.GPT2(logits_rows=logits_rows, tokenizer=_tokenizer(tokenizer), **options)

    def forward(self, tokens: ArrayLike, targets: ArrayLike | None = None) -> Floats | float:
        """tokens (B, T) -> logits (B, T, V) as in the loss; with targets (B, T) the mean loss, nats per token.

        A target of -100 (PyTorch's ignore_index) stands for none: the mean and the gradients are those of the others.
        UsageError if no target is left, and for tokens that are not integers of the vocabulary.
        """
        result: Floats | float = self._model.forward(tokens, targets)
        return result

    def backward(self, total_tokens: int = 0) -> float:
        """Adds the gradients of (sum of losses) / total_tokens of the last forward() with targets. Returns that loss.

        total_tokens: 0 for the number of targets other than -100; with several micro-batches per step, that of all of
        them.
        """
        return float(self._model.backward(total_tokens))

    def step(self, schedule: float = 1.0) -> float:
        """One update with every learning rate times `schedule`. Returns the gradient norm before clipping.

        UsageError without a backward() since the model was made or zero_grad() was called.
        """
        return float(self._model.step(schedule))

    def zero_grad(self) -> None:
        """Sets all gradients to 0."""
        self._model.zero_grad()

    def parameters(self) -> dict[str, Floats]:
        """Copies of all parameters by Hugging Face's names, (out, in), fp32, without padding rows."""
        return dict(self._model.parameters())

    def gradients(self) -> dict[str, Floats]:
        """Copies of all gradients by name, accumulated since zero_grad()."""
        return dict(self._model.gradients())

    def optimizer_state(self) -> dict[str, Floats]:
        """Copies of the moments (m.NAME, v.NAME) and of a bf16 model's fp32 weights (master.NAME)."""
        return dict(self._model.optimizer_state())

    def set_parameter(self, name: str, values: ArrayLike) -> None:
        """Overwrites one parameter; UsageError for another shape."""
        self._model.set_parameter(name, _numbers(values, name))

    def activations(self, tokens: ArrayLike, targets: ArrayLike) -> dict[str, Floats]:
        """Every activation of one forward pass by name (doc/formats.md, "Coordinate check"), (B*T, columns)."""
        return dict(self._model.activations(tokens, targets))

    def logits(self, tokens: str | ArrayLike) -> Floats:
        """Logits as in the loss: of a text or (T,) tokens (T, V), of (B, T) tokens (B, T, V).

        Those of the last position are of the next token. A text stands after the end-of-document token, as in training,
        which is position 0. T: at most seq_len. Any number of rows: batch_size at a time. UsageError for a text if the
        model has no tokenizer.
        """
        result: Floats = self._model.logits(self._encoded(tokens))
        return result

    def loss(self, tokens: str | ArrayLike) -> float:
        """Mean loss, nats per predicted token, of a text, of (T,) tokens, or of (B, T) tokens as B texts.

        A text stands after the end-of-document token, as in training, so that all of its tokens are predicted; of token
        ids, all but the first of a row. Any number of rows: batch_size at a time. A row of more than seq_len predicted
        tokens is read in windows of seq_len, as `train_gpt2 eval` reads its data: the context of a token begins at its
        window. UsageError for a text if the model has no tokenizer.
        """
        return float(self._model.loss(self._encoded(tokens)))

    def _encoded(self, tokens: str | ArrayLike) -> ArrayLike:
        return self._model.encode(_utf8(tokens, "text")) if isinstance(tokens, str) else tokens

    @overload
    def generate(
        self, prompt: str, count: int, *, samples: Literal[1] = 1, **options: Unpack[SampleOptions]
    ) -> str: ...
    @overload
    def generate(
        self, prompt: str, count: int, *, samples: int, **options: Unpack[SampleOptions]
    ) -> str | list[str]: ...
    @overload
    def generate(
        self, prompt: Tokens, count: int, *, samples: Literal[1] = 1, **options: Unpack[SampleOptions]
    ) -> list[int]: ...
    @overload
    def generate(
        self, prompt: Tokens, count: int, *, samples: int, **options: Unpack[SampleOptions]
    ) -> list[int] | list[list[int]]: ...

    def generate(
        self,
        prompt: str | Tokens,
        count: int,
        *,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        samples: int = 1,
        stop: str | None = None,
        seed: int = 42,
        cache: bool = True,
    ) -> str | list[str] | list[int] | list[list[int]]:
        """The continuation of a prompt, without the prompt: at most `count` tokens. Of several samples, a list of them.
        The model sees the last seq_len tokens.

        prompt               a text: answered by text, which `train_gpt2 sample` prints for the same options; it stands
                             after the end-of-document token and ends at the next one. Bytes that are not UTF-8 become
                             U+FFFD. Token ids: answered by token ids, which do not end at that token
        temperature          probabilities are softmax(logits / temperature); 0: always the likeliest token
        top_k                choose among the top_k likeliest tokens; 0: all
        top_p                choose among the fewest likeliest tokens whose probabilities, after top_k, reach top_p
        repetition_penalty   positive logits of tokens in the context are divided by it, negative ones multiplied
        samples              number of continuations, each with its own random numbers (doc/formats.md)
        stop                 the text ends before its first occurrence; token ids before the one in which it begins
        cache                False computes the whole context again for every token

        UsageError for a text or `stop` if the model has no tokenizer; Error with code 4 for logits that are not finite.
        """
        end = b"" if stop is None else _utf8(stop, "stop")
        request = self._native.SampleRequest(
            count, temperature, top_k, top_p, repetition_penalty, samples, end, seed, cache
        )
        if isinstance(prompt, str):
            found = self._model.continue_text(_utf8(prompt, "prompt"), request)
            texts = [text.decode(errors="replace") for text in found]
            return texts[0] if samples == 1 else texts
        tokens: list[list[int]] = self._model.continue_tokens(prompt, request)
        return tokens[0] if samples == 1 else tokens

    def save(self, folder: str | PathLike[str], *, tokenizer: str | PathLike[str] | None = None) -> Path:
        """Writes the checkpoint FOLDER/checkpoints/step_XXXXXXXX, complete or not at all, and returns its path.

        It contains weights, moments, options and the number of steps, not the gradients. llmc.load(FOLDER) and the
        programs' --init FOLDER take the weights; llmc.load(FOLDER, resume=True) and --out FOLDER --resume continue the
        training. tokenizer: as of GPT2, for `train_gpt2 sample FOLDER` (default: that of the model). Earlier
        checkpoints stay. UsageError if FOLDER has a later one.
        """
        return Path(self._model.save(_path(folder, "folder"), _tokenizer(tokenizer)))

    def load(self, checkpoint: str | PathLike[str], *, resume: bool = False) -> None:
        """Loads weights from a checkpoint of the same shape and parametrization. llmc.load makes a model from one.

        resume: also the optimizer's state and the number of steps, so that training continues with the same bits.
        A model without a tokenizer takes that of the checkpoint.
        """
        self._model.load(_path(checkpoint), resume)

    @property
    def steps(self) -> int:
        """Number of steps of the optimizer."""
        return int(self._model.steps)

    @property
    def parametrization(self) -> dict[str, Any]:
        """The resolved rule of every tensor: the table of doc/formats.md."""
        return dict(self._model.parametrization)

    @property
    def config(self) -> dict[str, Any]:
        """All resolved options, with the shape of init=, the batch and the scheme's defaults."""
        return dict(self._model.config)

    def __repr__(self) -> str:
        c = self.config
        return (
            f"llmc.GPT2(depth={c['depth']}, width={c['width']}, heads={c['heads']}, seq_len={c['seq_len']}, "
            f"batch_size={c['batch_size']}, vocab_size={c['vocab_size']}, parametrization={c['parametrization']!r}, "
            f"dtype={c['dtype']!r}, backend={self._model.backend!r}) at step {self.steps}"
        )


def load(
    checkpoint: str | PathLike[str],
    *,
    resume: bool = False,
    backend: str | None = None,
    tokenizer: str | PathLike[str] | None = None,
    **options: Unpack[ModelOptions],
) -> GPT2:
    """A model with the weights of a checkpoint: a run's folder, one of its checkpoints, or a .safetensors file.

    resume: also the optimizer's state and the number of steps, so that training continues with the same bits.
    The model has the options stored in the checkpoint; `options` override them (batch_size=1, for example). If it was
    trained on sequences shorter than its positions, its contexts have that seq_len; `train_gpt2 sample` and `eval` use
    all positions, as seq_len=POSITIONS does. Weights of transformers have the heads of the config.json beside them;
    without it they are assumed, with a warning.
    tokenizer: "byte" or the path of GPT-2's vocabulary, if neither is known from the checkpoint.
    """
    path = _path(checkpoint)
    for name in ("init", "preset"):
        if name in options:
            raise UsageError(
                f"{name}: llmc.load takes the weights and the shape from {path}; use llmc.GPT2({name}=...)"
            )
    stored: Mapping[str, Any] = _native(backend).checkpoint_options(path)
    taken = {key: value for key, value in stored.items() if value is not None and key not in ("init", "preset")}
    if "head_dim" in options:
        taken.pop("heads", None)
    if "batch_size" in options or "seq_len" in options:
        taken.pop("total_batch_size", None)  # a multiple of the stored ones
    model = GPT2(backend=backend, tokenizer=tokenizer, **(taken | dict(options) | {"init": path}))
    if resume:
        model.load(path, resume=True)
    return model


def parametrization(*, backend: str | None = None, **options: Unpack[ModelOptions]) -> dict[str, Any]:
    """The rule of every tensor and the scales of both passes (doc/formats.md, "The rule table").

    The keyword arguments are those of GPT2: llmc.parametrization(width=4096, parametrization="mup", base_width=256,
    head_dim=64).
    """
    return dict(_native(backend).parametrization(**options))


def _describe_options() -> str:
    """The options for help(llmc.GPT2), by group."""
    lines: list[str] = []
    group = ""
    for option in _table():
        if option["group"] != group:
            group = option["group"]
            lines += ["", f"{group.split(' (')[0]}:"]
        default = option.get("default_text") or json.dumps(option["default"])
        choices = "|".join(option.get("choices", []))
        text = f"{option['help']}{f' ({choices})' if choices else ''} [{default}]"
        name = option["name"].replace("-", "_")
        lines += textwrap.wrap(
            f"{name:<20} {text}", 110, initial_indent="    ", subsequent_indent=" " * 25, break_on_hyphens=False
        )
    return "\n".join(lines)


def _signature(first: list[inspect.Parameter]) -> inspect.Signature:
    """A signature with every option as a keyword, for completion and help()."""
    named = [
        inspect.Parameter(o["name"].replace("-", "_"), inspect.Parameter.KEYWORD_ONLY, default=o["default"])
        for o in _table()
    ]
    return inspect.Signature(first + named)


def _keyword(name: str, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)


GPT2.__doc__ = f"{inspect.cleandoc(GPT2.__doc__ or '')}\n{_describe_options()}\n"
GPT2.__init__.__signature__ = _signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        _keyword("backend", None),
        _keyword("logits_rows", 0),
        _keyword("tokenizer", None),
    ]
)
parametrization.__signature__ = _signature([_keyword("backend", None)])  # type: ignore[attr-defined]
