"""The rules of the pipeline. Pure: imports only the standard library and msgspec."""
