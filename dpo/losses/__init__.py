"""Preference losses: one contract, one file per loss or family. `python -m pydoc dpo.losses.base` shows it."""
