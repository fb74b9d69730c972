"""Apache Kafka, PostgreSQL and S3 on this machine, without containers: started, watched and stopped by `supervisor`.

Nothing is imported here: the watchdog is a module of this package and must stay small.
"""
