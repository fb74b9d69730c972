"""The workers: outbox relay, file processor, status sync and group monitor."""
