"""filemill: run, watch and break a distributed work pipeline on Kafka."""

__version__ = "0.1.0"
