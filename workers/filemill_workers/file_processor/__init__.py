"""The parts of a file processor.

consumer.py          the thread that owns the consumer of a consumer group
share_consumer.py    the thread that owns the consumer of a share group
dispatcher.py        fetched records that wait: which starts next, which partitions are paused
executor.py          the event loop that processes records
record_task.py       the processing of one record: work, render, PUT, `file.created` acknowledged; or a dead letter
handler_task.py      the attempts of a record whose request names a handler
handlers.py          runs a handler: in the pool of processes, or on the loop if it is a coroutine
result_writer.py     stores a handler's result while it arrives
circuit.py           a circuit breaker around the calls to one server
membership.py        joining the group again
command_listener.py  reads `worker.commands`
reporter.py          publishes `worker.events`
oldest_records.py    how long the oldest record of each partition has been unfinished

`filemill.entrypoints.processor` assembles them.
"""
