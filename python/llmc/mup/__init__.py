"""Coordinate checks and sweeps of hyperparameters: the runs, and what their results say."""
