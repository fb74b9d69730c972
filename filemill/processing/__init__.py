"""The engine of a file processor.

loop.py      the thread that owns the consumer: reads, pauses, commits, follows assignments; never blocks
workshop.py  the thread beside it where records become files: timers, uploads, acknowledgements
passage.py   one record's way: steps → render → PUT → file.created acknowledged; or to the dead letters
"""
