"""The compose files, run on a real Docker engine."""
