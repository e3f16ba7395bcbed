"""Makes audio files: a quiet chord that swells and fades."""

from __future__ import annotations

import io
import math
import wave
from array import array
from random import Random

_RATE = 16_000
_CHORDS = ((220.0, 277.18, 329.63), (196.0, 246.94, 293.66), (174.61, 220.0, 261.63))


def make_audio(seed: str, seconds: float) -> bytes:
    """Make a WAV file, 16 bits, mono.

    :param seed: decides the chord.
    :param seconds: its duration.
    """
    chord = Random(seed).choice(_CHORDS)
    count = round(seconds * _RATE)
    samples = array(
        "h",
        (
            round(
                7000
                * math.sin(math.pi * number / count)
                * sum(math.sin(math.tau * tone * number / _RATE) for tone in chord)
                / len(chord)
            )
            for number in range(count)
        ),
    )
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(_RATE)
        writer.writeframes(samples.tobytes())
    return file.getvalue()
