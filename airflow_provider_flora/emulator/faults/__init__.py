"""Which faults there are, when one is due, and what it does to an answer.

It imports from ``http``, ``media`` and ``state``.
"""
