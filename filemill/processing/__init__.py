"""The engine of a file processor.

workshop.py  the thread where records become files: timers, uploads, acknowledgements
passage.py   one record's way: steps → render → PUT → file.created acknowledged; or to the dead letters

The thread that owns the consumer is workers/file_processor.py.
"""
