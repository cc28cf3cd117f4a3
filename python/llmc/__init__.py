"""llmc-µP from Python: train GPT-2 with the maximal update parametrization on NumPy arrays.

    import llmc
    model = llmc.GPT2(width=128, depth=2, parametrization="mup", base_width=64, vocab_size=257, seq_len=64)
    loss = model.forward(tokens, targets)          # mean loss, nats per token
    model.backward(); model.step(); model.zero_grad()

llmc.GPT2              the model with its optimizer; help(llmc.GPT2) lists every option
llmc.load              a model from a checkpoint
llmc.parametrization   the rule of every tensor, as train_gpt2 --dry-run shows it
llmc.options           the table of options
llmc.backends()        the backends that are built and can run here: cpu, cuda, emulated
llmc.cpu, llmc.cuda, llmc.emulated   the ops of llmc/ops/ops.h on NumPy arrays, and their timing

The command `llmc` (or `python -m llmc`) makes data sets, trains, checks a parametrization, sweeps and draws.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmc.backend import backend, backends
from llmc.errors import DataError, Error, UsageError
from llmc.version import VERSION

if TYPE_CHECKING:
    from llmc import cpu, cuda, emulated
    from llmc.model import GPT2, load, parametrization

__version__ = VERSION
__all__ = [
    "GPT2",
    "DataError",
    "Error",
    "UsageError",
    "backend",
    "backends",
    "cpu",
    "cuda",
    "emulated",
    "load",
    "parametrization",
]

_BACKENDS = ("cpu", "cuda", "emulated")
_IN_MODEL = ("GPT2", "load", "parametrization")  # imported on first use: commands start faster without NumPy


def __getattr__(name: str) -> Any:
    if name in _IN_MODEL:
        from llmc import model

        return getattr(model, name)
    if name == "options":
        return import_module("llmc.options")
    if name in _BACKENDS:
        try:
            return backend(name)
        except ImportError as error:
            raise AttributeError(str(error)) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "options", "__version__"])
