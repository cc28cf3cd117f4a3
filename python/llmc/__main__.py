"""`python -m llmc` is the command `llmc`."""

from llmc.cli import entry

if __name__ == "__main__":
    entry()
