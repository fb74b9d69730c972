"""What the pages of one process share: cached reads, background jobs, and the use cases they call."""
