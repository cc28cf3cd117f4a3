"""The version of the package and of the programs: the Makefile reads it from here."""

VERSION = "0.1.0"
