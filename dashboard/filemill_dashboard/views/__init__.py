"""What the pages compute from the data that was read. Pure functions."""
