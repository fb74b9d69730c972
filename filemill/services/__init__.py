"""Use cases: what users do to files, workers, offsets and the stack. They write the audit record."""
