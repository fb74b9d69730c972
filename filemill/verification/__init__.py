"""`filemill verify`: the invariants of the pipeline, checked against the servers themselves.

evidence.py  what the topics say: requests, results, dead letters
rows.py      every row against the evidence, its object, and a fresh render
bucket.py    every object against the rows
report.py    what was found; the verdict
check.py     the order of it all
"""
