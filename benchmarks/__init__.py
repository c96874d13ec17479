"""How fast the engine is beside what people would use instead.

Needs a checkout: the wheel does not carry it.
"""
