"""A strict page-blob service that fails on demand. server.py starts it and tells how to use it."""
