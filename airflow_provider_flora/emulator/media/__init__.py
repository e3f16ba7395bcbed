"""What files are made of: drawings, videos, audio, documents, texts, blobs, and files on disk.

Nothing here knows of HTTP, of a run or of a technique.
"""
