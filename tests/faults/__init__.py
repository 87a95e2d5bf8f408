"""Killed at every file operation, and with a full disk from every one on: the same command again ends the same."""
