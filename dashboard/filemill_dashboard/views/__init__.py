"""What the pages derive from what was read. Pure."""
