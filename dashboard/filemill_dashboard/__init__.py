"""The page people look at, and REST, in one process."""
