"""Apache Kafka, PostgreSQL and S3 on this machine without containers; `supervisor` starts, monitors and stops them.

This file imports nothing, because the watchdog is a module of this package and must stay small.
"""
