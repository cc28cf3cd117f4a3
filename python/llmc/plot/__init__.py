"""Figures: the loss of runs, coordinate checks, sweeps."""
