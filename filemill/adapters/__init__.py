"""The drivers, one package a technology, and in-memory fakes that the contract suites hold to the same behaviour."""
