"""Handlers that come with filemill. Each needs the extra `handlers`, except `command`.

The libraries are imported when a handler runs, in its own process: a processor that never runs it does not load them.
"""
