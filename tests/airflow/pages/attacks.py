"""Outputs that are attacks. Each would ask the server for `/attacked` if a browser let it."""

from __future__ import annotations

CALL = "fetch('/attacked')"
SCRIPT = f"<script>{CALL}</script>"
IMAGE = f"<img src=x onerror={CALL}>"
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" onload="{CALL}"><script>{CALL}</script></svg>'
HTML = f"<!doctype html><html><body onload={CALL}>{SCRIPT}{IMAGE}</body></html>"
# The smallest picture there is, and a page behind it.
GIF = b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"

TEXTS = [
    SCRIPT,
    f"</pre></figure>{SCRIPT}",
    f"{{{{ '{SCRIPT}' | safe }}}}",
    f"<svg onload={CALL}>",
    f"\u202e\0\x1b]8;;javascript:{CALL}\7click\x1b]8;;\7{IMAGE}",
]
URLS = [
    ("imageUrl", f"javascript:{CALL}"),
    ("imageUrl", f"JaVaScRiPt:{CALL}//https://media.example/a.png"),
    ("imageUrl", f"data:text/html,{SCRIPT}"),
    ("videoUrl", f'https://media.example/a.mp4" onerror="{CALL}'),
    ("imageUrl", f"https://media.example/a.png' onerror='{CALL}"),
    ("documentUrl", f"\tjavascript:{CALL}"),
    ("audioUrl", f"//127.0.0.1/{SCRIPT}"),
    ("documentUrl", f"blob:{CALL}"),
    (f"imageUrl{SCRIPT}", f"vbscript:{CALL}"),
    ("documentUrl", "file:///etc/passwd"),
]
FILES = [
    ("imageUrl", "image/svg+xml", "drawing.svg", SVG.encode()),
    ("imageUrl", "image/png", "page.png", HTML.encode()),
    ("imageUrl", "text/html", "page.html", HTML.encode()),
    ("documentUrl", "application/xhtml+xml", "page.xhtml", HTML.encode()),
    (
        "documentUrl",
        "application/pdf",
        "paper.pdf",
        b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>",
    ),
    ("imageUrl", "image/gif", "half.gif", GIF + HTML.encode()),
    ("imageUrl", "image/png", f"{IMAGE.replace('/', '_')}.png", GIF),
    ("textUrl", "text/javascript", "script.js", CALL.encode()),
]
NUMBER = len(TEXTS) + len(URLS) + len(FILES)
