"""Writes the CSV file of train_gpt2.py's --coord-check (doc/formats.md)."""

from __future__ import annotations

from llmc.checkpoint import Rules, Shape
from llmc.config import Config
from llmc.errors import Error

COLUMNS = (
    "program,parametrization,base_width,width,base_depth,depth,heads,seed,lr,step,kind,tensor,role,"
    "multiplier,mean_abs,std,delta"
)


class CheckWriter:
    def __init__(self, config: Config, shape: Shape, rules: Rules) -> None:
        self.run = (
            f"train_gpt2.py,{rules['scheme']},{rules['base_width']},{shape.width},{rules['base_depth']},{shape.depth},"
            f"{shape.heads},{config.seed},{config.lr:.7g}"
        )
        try:
            self.file = open(config.coord_check, "w")  # noqa: SIM115 - open during the whole run
        except OSError as error:
            raise Error(f"cannot write to --coord-check {config.coord_check}: {error.strerror}") from None
        print(COLUMNS, file=self.file, flush=True)

    def row(self, step: int, kind: str, name: str, role: str, *numbers: float | None) -> None:
        """numbers: multiplier, mean absolute value, standard deviation, change since the first step if it has one."""
        texts = ["" if number is None else f"{number:.7g}" for number in numbers]
        print(f"{self.run},{step},{kind},{name},{role},{','.join(texts)}", file=self.file)

    def flush(self) -> None:
        self.file.flush()
