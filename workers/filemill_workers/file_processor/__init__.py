"""The engine of a file processor.

assembly.py  all of it put together
listener.py  what workers are told
reporter.py  what they say
oldest.py    for how long their partitions have been at the same record
gate.py      the way to a server, with a breaker in it
workshop.py  the thread where records become files: timers, uploads, acknowledgements
passage.py   one record's way: steps → render → PUT → file.created acknowledged; or to the dead letters

The thread that owns the consumer is workers/filemill_workers/file_processor/consumer.py.
"""
