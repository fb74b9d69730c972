"""REST: one module a group of routes; `app.py` puts them together."""
