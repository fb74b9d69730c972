"""The three servers: Kafka, PostgreSQL and SeaweedFS."""
