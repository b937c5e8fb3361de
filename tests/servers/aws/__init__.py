"""A strict AWS (EC2, EBS direct, STS, IMDSv2) that fails on demand. server.py starts it."""
