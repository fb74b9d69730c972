"""The REST API: one module per group of routes. `app.py` builds the application."""
