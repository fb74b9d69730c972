"""Wiring, roles and the command line: the only part of filemill that may import workers, dashboard and infra."""
