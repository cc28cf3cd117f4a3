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
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmc.backend import MODULES, backend
from llmc.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from llmc.config import ModelOptions

Floats = NDArray[np.float32]


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

    Calls from several threads take turns; other threads run while the model computes.

    The keyword arguments are train_gpt2's options with underscores, checked by the same code. UsageError for an unknown
    name, a value out of range, or a combination without a meaning; DataError for a checkpoint that cannot be used.
    backend is "cpu", "cuda" or "emulated" (default: the first that is built). logits_rows: rows of logits in memory at
    a time (0: chosen for the device).
    """

    def __init__(self, *, backend: str | None = None, logits_rows: int = 0, **options: Unpack[ModelOptions]) -> None:
        self._model = _native(backend).GPT2(logits_rows=logits_rows, **options)

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

    def generate(
        self,
        tokens: Sequence[int] | NDArray[Any],
        count: int,
        *,
        temperature: float = 0.8,
        top_k: int = 0,
        seed: int = 42,
        cache: bool = True,
    ) -> list[int]:
        """`count` tokens sampled after `tokens`. cache=False computes the whole context again for every token."""
        return list(self._model.generate(tokens, count, temperature, top_k, seed, cache))

    def save(self, folder: str | PathLike[str], *, tokenizer: str | PathLike[str] | None = None) -> Path:
        """Writes the checkpoint FOLDER/checkpoints/step_XXXXXXXX, complete or not at all, and returns its path.

        It contains weights, moments, options and the number of steps, not the gradients. llmc.load(FOLDER) and the
        programs' --init FOLDER take the weights; llmc.load(FOLDER, resume=True) and --out FOLDER --resume continue the
        training. tokenizer: "byte", "unknown", or the path of a tokenizer.bin, for `train_gpt2 sample FOLDER`
        (default: that of the checkpoint that the model was made from). Earlier checkpoints stay. UsageError if FOLDER
        has a later one.
        """
        return Path(
            self._model.save(_path(folder, "folder"), "" if tokenizer is None else _path(tokenizer, "tokenizer"))
        )

    def load(self, checkpoint: str | PathLike[str], *, resume: bool = False) -> None:
        """Loads weights from a checkpoint of the same shape and parametrization. llmc.load makes a model from one.

        resume: also the optimizer's state and the number of steps, so that training continues with the same bits.
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
    **options: Unpack[ModelOptions],
) -> GPT2:
    """A model with the weights of a checkpoint: a run's folder, one of its checkpoints, or a .safetensors file.

    resume: also the optimizer's state and the number of steps, so that training continues with the same bits.
    The model has the options stored in the checkpoint; `options` override them (batch_size=1, for example). Weights of
    transformers have the heads of the config.json beside them; without it they are assumed, with a warning.
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
    model = GPT2(backend=backend, **(taken | dict(options) | {"init": path}))
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
    ]
)
parametrization.__signature__ = _signature([_keyword("backend", None)])  # type: ignore[attr-defined]
