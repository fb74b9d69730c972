"""Processes of a stack: how they are started, watched, signalled and restarted."""
