"""Coordinate checks and sweeps of hyperparameters: runs, results and verdicts."""
