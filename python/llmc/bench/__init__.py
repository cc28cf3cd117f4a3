"""Benchmarks on CPUs and GPUs, and the check of a GPU."""
