"""Our losses against TRL's own trainers: `python -m tests.parity` prints the table and writes docs/parity.md."""
