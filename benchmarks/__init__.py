"""Measurements of speed: the engine beside what people would use instead.

Needs a checkout: the wheel does not carry it.
"""
