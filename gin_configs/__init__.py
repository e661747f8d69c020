"""Gin files: models/ and runs/, found by the names that lie under this folder."""
