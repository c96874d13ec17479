"""Runs on disk: discovery, tables, comparison, housekeeping."""
