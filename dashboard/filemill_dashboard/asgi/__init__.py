"""What is in front of REST and the pages: HTTP, the checks of Host and Origin, headers, trusted proxies."""
