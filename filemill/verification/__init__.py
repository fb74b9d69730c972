"""`filemill verify`: checks the invariants of the pipeline against the servers.

findings.py        invariants and findings, with their codes
topics.py          the only reader of the topics; it feeds two stores
topic_history.py   the store in memory, for the audit and the lab (the other: adapters/sqlite/topic_index.py)
rows.py            each row against the topics, its object, and a new render
bucket.py          each object against the rows
commits.py         each commit and each execution against the history
report.py          the result of `verify`
check.py           the order of the checks
"""
