"""A real Docker engine for the tests, and images on it."""
