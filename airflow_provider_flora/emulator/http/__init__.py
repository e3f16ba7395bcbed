"""How requests and answers look: errors, JSON, forms, pages of a list, callback URLs.

Nothing here knows what the emulator keeps. It imports from no other folder.
"""
