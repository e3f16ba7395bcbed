"""Flora's operations: one file for each group of them, and what they need to read requests and send files.

It imports from ``http``, ``media``, ``state`` and ``faults``; only the files at the top import from it.
"""
