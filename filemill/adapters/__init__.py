"""The drivers: Postgres, Kafka, S3, and in-memory fakes that the contract suites hold to the same behaviour."""
