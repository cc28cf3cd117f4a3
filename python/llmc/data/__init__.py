"""Data sets: from text to token shards (doc/formats.md)."""
