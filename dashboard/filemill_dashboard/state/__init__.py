"""What the pages of one process share: cached data, background jobs, and access to the servers and use cases."""
