"""SQLite: a temporary index of topic contents, for `filemill verify`."""
