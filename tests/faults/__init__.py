"""What goes wrong, made to happen for real: power cuts, kill -9 and failing calls. `python -m tests.faults`."""
