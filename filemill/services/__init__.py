"""The use cases: what people and programs do to files, workers, offsets and the stack."""
