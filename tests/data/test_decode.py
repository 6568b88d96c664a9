"""Every kind of image becomes a uint8 square, and every damaged one a reason."""

import io
import math
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from cognates.data import decode as module
from cognates.data.decode import UnreadableError, decode, read_header


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def smooth(size=(64, 48), seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def png_header(width, height):
    """Return a PNG that claims a size and has no pixels to speak of."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("1", "PNG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("RGB", "BMP"),
        ("RGBA", "PNG"),
        ("RGBA", "WEBP"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "JPEG"),
        ("I;16", "PNG"),
        ("I;16", "TIFF"),
        ("I", "TIFF"),
        ("F", "TIFF"),
    ],
)
def test_every_mode_decodes_to_its_brightness(mode, kind, channels):
    # A left half of 51 and a right half of 204 = 4 x 51, in the units of each mode.
    grey = np.repeat(np.array([[51, 204]], np.uint8), 16, axis=1).repeat(32, axis=0)
    scales = {"I;16": 257, "I": 257, "F": 1 / 255}
    if mode in scales:
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray((grey.astype(np.float64) * scales[mode]).astype(dtype))
        assert image.mode == mode
    elif mode == "1":
        image = Image.fromarray(grey).point(lambda value: value > 100, mode="1")
        grey = np.where(grey > 100, 255, 0).astype(np.uint8)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    pixels = decode(encoded(image, kind), size=32, channels=channels)
    assert pixels.shape == (channels, 32, 32)
    assert pixels.dtype == np.uint8
    # 3: JPEG, and CMYK's way there and back, are not exact; nothing else is off by more than 1.
    allowed = 3 if kind in ("JPEG", "WEBP") else 1
    assert np.abs(pixels.astype(int) - grey).max() <= allowed


def test_palette_with_alpha_and_premultiplied_modes_decode_from_arrays_too():
    image = smooth((16, 16)).convert("PA")
    for mode in ("PA", "La", "RGBa"):
        changed = image.convert("RGBA") if mode != "PA" else image
        changed = changed.convert("LA").convert("La") if mode == "La" else changed.convert(mode)
        flat = module._opaque(changed, "RGB")
        assert flat.mode == "RGB"
        assert flat.size == (16, 16)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(mode):
    image = Image.new(mode, (8, 8), (0,) * len(mode))
    assert (decode(encoded(image), size=8, channels=3) == 255).all()
    half = Image.new(mode, (8, 8), (*(0,) * (len(mode) - 1), 128))
    # Black at 128/255 over white: 255 - 128 = 127.
    assert set(np.unique(decode(encoded(half), size=8, channels=3))) == {127}


def test_a_transparent_palette_entry_is_white():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    assert (decode(encoded(image, transparency=1), size=8, channels=3) == 255).all()
    opaque = decode(encoded(image, transparency=0), size=8, channels=3)
    assert opaque[:, 0, 0].tolist() == [200, 0, 0]


def test_sixteen_bits_keep_the_upper_eight_and_are_not_clipped():
    ramp = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    pixels = decode(encoded(Image.fromarray(ramp)), size=32, channels=1)
    np.testing.assert_array_equal(pixels[0], np.rint(ramp / 257))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([0.0, 500.0, 1000.0], [0, 128, 255]),
    ],
)
def test_floats_are_scaled_by_their_range(values, expected):
    image = Image.fromarray(np.repeat(np.array([values], np.float32), 3, axis=0))
    assert decode(encoded(image, "TIFF"), size=3, channels=1)[0, 0].tolist() == expected


def test_floats_that_are_not_finite_are_unreadable():
    image = Image.fromarray(np.full((4, 4), np.nan, np.float32))
    with pytest.raises(UnreadableError, match="not finite"):
        decode(encoded(image, "TIFF"), size=4, channels=1)


def test_constant_integers_of_32_bits_do_not_divide_by_zero():
    image = Image.fromarray(np.full((4, 4), -7, np.int32))
    assert (decode(encoded(image, "TIFF"), size=4, channels=1) == 0).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation, kind):
    from PIL import ImageOps

    image = smooth((48, 48))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encoded(image, kind, exif=exif.tobytes(), **options)
    with Image.open(io.BytesIO(data)) as stored:
        reference = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    pixels = decode(data, size=48, channels=3)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), reference)


def test_a_damaged_exif_block_costs_the_rotation_and_not_the_image():
    data = encoded(smooth((16, 16)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode(data, size=16, channels=3).shape == (3, 16, 16)


def test_what_is_not_damage_of_the_exif_block_is_not_taken_for_it(monkeypatch):
    data = encoded(smooth((16, 16)), "JPEG")

    def full(image):
        raise MemoryError("no memory")

    monkeypatch.setattr(Image.Image, "getexif", full)
    with pytest.raises(UnreadableError, match="too large for the memory"):
        decode(data, size=8, channels=3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black", "black")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as stored:
        assert stored.n_frames > 1
    assert (decode(data, size=8, channels=1) >= 250).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 5), (3000, 20)])
def test_any_size_decodes_and_keeps_a_constant_constant(size):
    pixels = decode(encoded(Image.new("RGB", size, (10, 20, 30))), size=16, channels=3)
    assert pixels.shape == (3, 16, 16)
    assert [set(np.unique(channel)) for channel in pixels] == [{10}, {20}, {30}]


@pytest.mark.parametrize("shape", [(90, 60), (60, 90), (61, 90)])
def test_the_centred_square_is_kept(shape):
    side = min(shape)
    values = np.zeros((*shape, 3), np.uint8)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    values[top : top + side, left : left + side] = 200
    assert (decode(values, size=side, channels=3) == 200).all()
    assert (decode(values, size=side // 2, channels=3)[:, 2:-2, 2:-2] == 200).all()


def test_shrinking_averages_and_does_not_alias():
    # Alternating black and white columns: nearest or plain bilinear sampling would show stripes.
    stripes = np.tile(np.array([0, 255], np.uint8), (128, 64))
    pixels = decode(stripes, size=16, channels=1)
    assert pixels.std() < 3
    assert abs(pixels.mean() - 127.5) < 1


def test_shrinking_equals_resizing_the_whole_and_then_cropping():
    image = smooth((90, 60), seed=3)
    whole = image.resize((30, 20), Image.Resampling.BICUBIC)
    reference = np.asarray(whole.crop((5, 0, 25, 20)))
    pixels = decode(encoded(image), size=20, channels=3).transpose(1, 2, 0)
    # 1: rounding of the two passes.
    assert np.abs(pixels.astype(int) - reference).max() <= 1


def test_decoding_a_large_jpeg_at_reduced_size_costs_no_quality():
    rng = np.random.default_rng(0)
    texture = np.clip(
        np.asarray(smooth((1200, 900)), int) + rng.normal(0, 12, (900, 1200, 3)), 0, 255
    )
    data = encoded(Image.fromarray(texture.astype(np.uint8)), "JPEG", quality=90)
    with Image.open(io.BytesIO(data)) as stored:
        whole = stored.convert("RGB")
        stored = Image.open(io.BytesIO(data))
        assert stored.draft("RGB", (3 * 74, 3 * 74)) is not None, "the picture is too small to test"
    reference = np.asarray(
        whole.resize((74, 74), Image.Resampling.BICUBIC, box=(150, 0, 1050, 900))
    )
    pixels = decode(data, size=74, channels=3).transpose(1, 2, 0)
    error = np.sqrt(np.mean((pixels.astype(float) - reference) ** 2))
    # Root mean square error in grey levels: under one, and one level is the rounding itself.
    assert error < 1.0


def test_luma_of_arrays_and_of_files_agree():
    from cognates.data.build import Plan, _channels_first

    block = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    plan = Plan(
        reader=None, rows=np.arange(2), size=16, channels=1, workers=0, progress=False, what=""
    )
    fast = _channels_first(block, plan)
    slow = np.stack([decode(image, size=16, channels=1) for image in block])
    np.testing.assert_array_equal(fast, slow)


JPEG = encoded(smooth((160, 120)), "JPEG", quality=90)
PROGRESSIVE = encoded(smooth((160, 120)), "JPEG", quality=90, progressive=True)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.98])
@pytest.mark.parametrize(
    "data",
    [
        JPEG,
        PROGRESSIVE,
        encoded(smooth((160, 120)), "PNG"),
        encoded(smooth((160, 120)), "GIF"),
        encoded(smooth((160, 120)), "BMP"),
        encoded(smooth((160, 120)), "WEBP"),
        encoded(smooth((160, 120)), "TIFF"),
    ],
    ids=["jpeg", "progressive", "png", "gif", "bmp", "webp", "tiff"],
)
def test_a_truncated_file_is_unreadable_and_not_half_grey(data, share):
    with pytest.raises(UnreadableError):
        decode(data[: int(len(data) * share)], size=32, channels=3)


def test_a_truncated_jpeg_says_truncated_even_where_pillow_was_told_to_be_lenient(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UnreadableError, match=r"^truncated$"):
        decode(JPEG[: len(JPEG) // 2], size=32, channels=3)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("limit", [None, 100])
def test_a_decompression_bomb_is_refused_whatever_pillow_was_told(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for look in (lambda data: decode(data, size=8, channels=3), read_header):
        with pytest.raises(UnreadableError, match=r"60000 x 60000 pixels, a decompression bomb"):
            look(png_header(60_000, 60_000))
    assert limit == Image.MAX_IMAGE_PIXELS
    assert decode(encoded(smooth()), size=8, channels=3).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"this is a text file\n" * 50, "not an image"),
        (b"", "empty file"),
        (b"\xff\xd8\xff", "."),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (bytes(2000), "not an image"),
    ],
)
def test_what_is_no_image_has_a_reason(tmp_path, data, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    for item in (data, str(path)):
        with pytest.raises(UnreadableError, match=reason):
            decode(item, size=8, channels=3)
        with pytest.raises(UnreadableError, match=reason):
            read_header(item)


def test_missing_and_forbidden_files_have_reasons(tmp_path, monkeypatch):
    with pytest.raises(UnreadableError, match="no such file") as missing:
        decode(str(tmp_path / "a.png"), size=8, channels=3)
    assert module.may_pass(str(missing.value))
    with pytest.raises(UnreadableError, match="not a regular file"):
        decode(str(tmp_path), size=8, channels=3)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.os, "open", refuse)
    with pytest.raises(UnreadableError, match="no permission") as forbidden:
        decode(str(tmp_path / "a.png"), size=8, channels=3)
    assert module.may_pass(str(forbidden.value))
    assert not module.may_pass("truncated")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names here")
def test_a_pipe_with_an_image_name_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UnreadableError, match="not a regular file"):
        decode(str(tmp_path / "a.jpg"), size=8, channels=3)


def test_no_damage_raises_anything_but_unreadable():
    rng = np.random.default_rng(0)
    tried = failed = 0
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
        good = np.frombuffer(encoded(smooth((40, 30)), kind), np.uint8)
        for _ in range(20):
            bad = good.copy()
            places = rng.integers(0, len(bad), max(1, len(bad) // 50))
            bad[places] = rng.integers(0, 256, len(places))
            tried += 1
            try:
                assert decode(bad.tobytes(), size=8, channels=3).shape == (3, 8, 8)
            except UnreadableError as error:
                failed += bool(str(error))
    assert tried == 140
    assert failed > 20


def test_header_gives_size_and_mode():
    assert read_header(encoded(smooth((64, 48)).convert("CMYK"), "JPEG")) == (64, 48, "CMYK")
    assert read_header(np.zeros((5, 7), np.uint8)) == (7, 5, "L")


def test_importing_and_decoding_need_no_torch():
    code = (
        "import sys, io, cognates.data.worker, cognates.data.decode as d\n"
        "from PIL import Image\n"
        "before = Image.MAX_IMAGE_PIXELS\n"
        "d.decode(b'P5 2 2 255\\n' + bytes(4), size=2, channels=1)\n"
        "assert Image.MAX_IMAGE_PIXELS == before\n"
        "assert not {'torch', 'sklearn', 'datasets'} & set(sys.modules), 'heavy imports'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_limit_of_pixels_is_pillows_own():
    assert math.isclose(module.MOST_PIXELS, 2 * Image.MAX_IMAGE_PIXELS, rel_tol=1e-6)
