"""Short listings of machine code, for tests."""

import re


def listing(text):
    """Lines as cuobjdump prints them: 16 bytes an instruction, labels (NAME:) replaced by addresses."""
    addresses, instructions = {}, []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.endswith(":"):
            addresses[line[:-1]] = 16 * len(instructions)
        else:
            instructions.append(line)
    labels = re.compile(r"\b(" + "|".join(addresses or {"-"}) + r")\b")
    return [
        f"        /*{16 * n:04x}*/    {labels.sub(lambda m: hex(addresses[m[1]]), line)} ;    /* 0x0 */"
        for n, line in enumerate(instructions)
    ]
