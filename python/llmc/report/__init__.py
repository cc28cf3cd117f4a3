"""One HTML page for runs, coordinate checks and sweeps: no script, no network, every figure inside."""
