"""ASGI middleware and protocols in front of REST and the pages: limits, checks of Host and Origin, headers, proxies."""
