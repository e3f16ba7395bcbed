"""What the emulator keeps in memory: techniques, runs, Flora assets, the ledger, the time.

Nothing here knows of HTTP. It imports from ``media`` alone.
"""
