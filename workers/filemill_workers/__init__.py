"""The processes that do the work: one short file each."""
