"""Runs on disk: found, listed, compared, tidied up."""
