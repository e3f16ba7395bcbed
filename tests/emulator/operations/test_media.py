"""The files: real ones of their type, that show what was asked for."""

from __future__ import annotations

import io
import wave

import av
import pytest
import requests
from PIL import Image, ImageChops, ImageStat

from tests.emulator.caller import image, text


def fetch(flora, url):
    answer = requests.get(url, timeout=60)  # no key
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    return answer


def picture(content):
    return Image.open(io.BytesIO(content)).convert("RGB")


def difference(one, other):
    return max(ImageStat.Stat(ImageChops.difference(one, other.resize(one.size))).mean)


def sample(flora, name):
    return f"{flora.emulator.origin}/media/samples/{name}"


def relit(flora, photo, light="golden hour", **options):
    (output,) = flora.run("product-relight", [image("photo", photo), text("light", light)], **options)["outputs"]
    return output["url"]


@pytest.mark.parametrize("name", ["sneaker.png", "lamp.png", "mug.png", "chair.png"])
def test_samples_are_pictures(flora, name):
    answer = fetch(flora, sample(flora, name))
    assert answer.headers["content-type"] == "image/png"
    assert picture(answer.content).size == (640, 640)


def test_the_sample_clip_is_a_video(flora):
    answer = fetch(flora, sample(flora, "clip.mp4"))
    assert answer.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(answer.content)) as video:
        assert video.streams.video[0].codec_context.name == "h264"


def test_a_still_has_the_ratio_of_its_slot_and_is_the_same_each_time(emulate):
    def still(seed):
        flora = emulate(run_seconds=0, seed=seed)
        url = flora.run()["outputs"][0]["url"]
        content = fetch(flora, url).content
        assert content == fetch(flora, url).content
        return content

    first = still(1)
    width, height = picture(first).size
    assert width / height == pytest.approx(4 / 5)
    assert first == still(1)
    assert first != still(2)


def test_a_still_shows_its_words(flora):
    def still(words):
        run = flora.run(inputs=[text("prompt", words)])
        return picture(fetch(flora, run["outputs"][0]["url"]).content)

    words = still("An otter")
    # White letters on a dark ground: brightest where words are, and only some of it.
    upper = words.crop((0, 0, words.width, words.height // 3)).convert("L")
    share = sum(upper.histogram()[250:]) / (upper.width * upper.height)
    assert 0.002 < share < 0.3
    assert difference(words, still("A badger")) > 1


@pytest.mark.parametrize("words", ["x" * 900, "word " * 900, "Привет, мир", "日本語", "line\nline", "🦊", " \n "])
def test_any_words_can_be_drawn(flora, words):
    assert fetch(flora, flora.run(inputs=[text("prompt", words)])["outputs"][0]["url"])


def test_a_photo_of_its_own_is_pasted_in_and_relit(flora):
    stills = {}
    for name in ("lamp.png", "mug.png"):
        content = fetch(flora, relit(flora, sample(flora, name))).content
        stills[name] = picture(content)
        original = picture(fetch(flora, sample(flora, name)).content)
        assert difference(original, stills[name].crop((92, 0, 676, 584))) > 10, "relit"
    assert difference(stills["lamp.png"], stills["mug.png"]) > 3, "shows the product"
    blue = picture(fetch(flora, relit(flora, sample(flora, "mug.png"), "blue moon")).content)
    red, _, blueness = ImageStat.Stat(blue).mean
    golden_red, _, golden_blue = ImageStat.Stat(stills["mug.png"]).mean
    assert blueness / red > golden_blue / golden_red


def test_a_chain_of_techniques_carries_the_picture_on(flora):
    videos = []
    for name in ("lamp.png", "mug.png"):
        url = relit(flora, sample(flora, name))
        run = flora.run("product-motion", [image("photo", url)])
        answer = fetch(flora, run["outputs"][0]["url"])
        assert answer.headers["content-type"] == "video/mp4"
        with av.open(io.BytesIO(answer.content)) as video:
            stream = video.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert video.duration / av.time_base == pytest.approx(2, abs=0.1)
            assert stream.width / stream.height == pytest.approx(16 / 9, abs=0.01)
            frames = [frame.to_image() for frame in video.decode(video=0)]
        assert len(frames) == 48
        assert difference(frames[0], frames[-1]) > 1, "it moves"
        assert len(answer.content) < 500_000
        videos.append(frames[0])
    assert difference(*videos) > 3


def test_a_foreign_photo_is_not_downloaded(flora):
    assert fetch(flora, relit(flora, "https://example.invalid/shoe.png"))


def test_a_video_can_be_an_input(flora):
    run = flora.run("clip-recut", [{"id": "clip", "type": "videoUrl", "value": sample(flora, "clip.mp4")}])
    with av.open(io.BytesIO(fetch(flora, run["outputs"][0]["url"]).content)) as video:
        assert video.streams.video[0].height > video.streams.video[0].width


def test_a_recording_is_a_wav(flora):
    run = flora.run("voice-over", [text("script", "Hello")])
    answer = fetch(flora, run["outputs"][0]["url"])
    assert answer.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(answer.content)) as recording:
        assert recording.getnframes() / recording.getframerate() == 2
        assert any(recording.readframes(recording.getnframes()))


def test_a_document_is_a_pdf(flora):
    run = flora.run("press-kit", [text("announcement", "News"), image("picture", sample(flora, "chair.png"))])
    answer = fetch(flora, run["outputs"][0]["url"])
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.content.startswith(b"%PDF")
    assert b"%%EOF" in answer.content[-16:]


def test_several_outputs_are_different_pictures(flora):
    run = flora.run("character-lock", [image("character", sample(flora, "chair.png"))])
    contents = {fetch(flora, output["url"]).content for output in run["outputs"]}
    assert len(contents) == 6


def test_there_is_no_file_before_the_end_of_a_run_nor_under_a_wrong_name(emulate):
    flora = emulate(run_seconds=600)
    run = flora.start().json()
    media = f"{flora.emulator.origin}/media"
    url = f"{media}/{run['run_id']}/still.png"
    assert requests.get(url, timeout=60).status_code == 404
    flora.later(700)
    assert requests.get(url, timeout=60).status_code == 200
    for path in (
        f"{run['run_id']}/still.mp4",
        f"{run['run_id']}/other.png",
        "run_x/still.png",
        "samples/x.png",
        "x",
    ):
        answer = requests.get(f"{media}/{path}", timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_a_run_is_never_drawn_from_one_that_is_younger(flora):
    run_id = flora.run()["run_id"]
    following = f"{run_id[:-6]}{int(run_id[-6:], 16) + 1:06x}"
    own = f"{flora.emulator.origin}/media/{following}/image.png"
    assert fetch(flora, relit(flora, own))


def test_the_api_answers_while_a_video_is_made(flora):
    import threading

    video = threading.Thread(target=fetch, args=(flora, sample(flora, "clip.mp4")))
    video.start()
    answers = 0
    while video.is_alive():
        flora.get("/techniques/product-relight")
        answers += 1
    assert answers > 5  # held up, it would be one or two
