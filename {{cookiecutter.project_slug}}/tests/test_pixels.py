"""What becomes of an image's pixels: values of any depth, sides, transparency, pages; and what is said of it."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from project_package.data import ImageData
from project_package.engine import looks as looking
from project_package.engine.decoding import Unreadable, decode
from project_package.engine.images import Decoding
from project_package.engine.mistakes import Mistake


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def ramp(limit: float, kind: type) -> np.ndarray:
    """Return a ramp from 0 to a limit, 16 × 16."""
    return np.linspace(0, limit, 256).reshape(16, 16).astype(kind)


DEPTHS = {
    "float from 0 to 1": (ramp(1, np.float32), "tif", (0, 1)),
    "float from 0 to 255": (ramp(255, np.float32), "tif", (0, 255)),
    "float from -1 to 1": (2 * ramp(1, np.float32) - 1, "tif", (-1, 1)),
    "float of any scale": (ramp(3e4, np.float32) - 1e4, "tif", (-1e4, 2e4)),
    "10 bits of 16": (ramp(1023, np.uint16), "png", (0, 1023)),
    "12 bits of 16": (ramp(4095, np.uint16), "png", (0, 4095)),
    "16 bits": (ramp(65535, np.uint16), "png", (0, 65535)),
    "12 bits of 32": (ramp(4095, np.int32), "tif", (0, 4095)),
    "24 bits of 32": (ramp(2**24, np.int32), "tif", (0, 2**24)),
}


@pytest.mark.parametrize("depth", DEPTHS)
def test_values_of_any_depth_become_the_same_grey_as_in_8_bits(depth, tmp_path):
    values, suffix, limits = DEPTHS[depth]
    path = save(tmp_path / f"deep.{suffix}", values)
    looks = looking.look_at(tmp_path, [path.name])
    side, channels, value_range = looking.settled(looks, None, None, None)
    assert (side, channels) == (16, 1)
    assert value_range == pytest.approx(limits)
    grey = decode(path, 1, 16, value_range=value_range)[..., 0].astype(int)
    assert np.abs(grey - np.linspace(0, 255, 256).reshape(16, 16)).max() <= 1.5
    said = looking.remarks(looks, Decoding(1, 16, value_range=value_range), given_range=False)
    assert "--data.value_range" in " ".join(said)


NO_RANGES = [(0, 0), (4095, 0), (0, float("inf")), (float("-inf"), 0), (float("nan"), 1), (-1.7e308, 1.7e308)]


@pytest.mark.parametrize("value_range", NO_RANGES, ids=str)
def test_a_range_that_is_none_is_refused(value_range, tmp_path):
    with pytest.raises(Mistake, match=r"--data\.value_range=.* is out of range"):
        ImageData(str(tmp_path), value_range=value_range)


def test_a_given_range_is_kept_and_nothing_is_said(tmp_path):
    path = save(tmp_path / "deep.png", ramp(1000, np.uint16))
    looks = looking.look_at(tmp_path, [path.name])
    assert looking.settled(looks, 16, 1, (0, 2000))[2] == (0, 2000)
    assert not looking.remarks(looks, Decoding(1, 16, value_range=(0, 2000)), given_range=True)
    assert int(decode(path, 1, 16, value_range=(0, 2000)).max()) in (127, 128)


def with_tags(path: Path, values: np.ndarray, **tags: float) -> Path:
    """Save a TIFF with SMinSampleValue, SMaxSampleValue, MinSampleValue or MaxSampleValue."""
    numbers = {"s_min": (340, 12), "s_max": (341, 12), "min": (280, 3), "max": (281, 3)}  # and the type of each
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        number, kind = numbers[name]
        info[number] = (value,)
        info.tagtype[number] = kind
    Image.fromarray(values).save(path, tiffinfo=info)
    return path


def with_bits(path: Path, values: np.ndarray, bits: int) -> Path:
    """Save a PNG of 16 bits whose chunk sBIT names fewer."""
    save(path, values)
    content, chunk = path.read_bytes(), b"sBIT" + bytes([bits])
    added = (1).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    path.write_bytes(content[:33] + added + content[33:])  # after IHDR
    return path


def of_12_bits(path: Path, values: np.ndarray) -> Path:
    """Save a TIFF of 12 bits a grey, two greys in three bytes."""
    high, low = values.reshape(-1, 2).T
    packed = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], 1).astype(np.uint8).tobytes()
    entries = [(256, values.shape[1]), (257, values.shape[0]), (258, 12), (259, 1), (262, 1)]
    entries += [(273, 122), (277, 1), (278, values.shape[0]), (279, len(packed))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + directory + bytes(4) + packed)
    return path


DARK = ramp(700, np.uint16)  # by a look alone 10 bits
STATED = {
    "SMin and SMax": (lambda path: with_tags(path, DARK, s_min=0, s_max=4095), (0, 4095)),
    "of floats": (lambda path: with_tags(path, ramp(0.3, np.float32), s_min=-2, s_max=2), (-2, 2)),
    "the greatest alone": (lambda path: with_tags(path, DARK, max=5000), (0, 5000)),
    "whole numbers": (lambda path: with_tags(path, DARK, min=0, max=16383), (0, 16383)),
    "12 bits of a TIFF": (lambda path: of_12_bits(path, DARK), (0, 4095)),
    "sBIT of a PNG": (lambda path: with_bits(path.with_suffix(".png"), DARK, 12), (0, 4095)),
    "sBIT of scaled values": (
        lambda path: with_bits(path.with_suffix(".png"), ramp(65520, np.uint16), 12),
        (0, 65535),
    ),
    "tags that do not hold the values": (lambda path: with_tags(path, DARK, s_min=0, s_max=255), (0, 1023)),
    "no tags": (lambda path: save(path, DARK), (0, 1023)),
}


@pytest.mark.parametrize("kind", STATED)
def test_a_range_of_the_tags_comes_before_a_look(kind, tmp_path):
    write, limits = STATED[kind]
    path = write(tmp_path / "deep.tif")
    looks = looking.look_at(tmp_path, [path.name])
    value_range = looking.settled(looks, None, None, None)[2]
    assert value_range == limits
    said = " ".join(looking.remarks(looks, Decoding(1, 16, value_range=value_range), given_range=False))
    assert ("as their tags say" in said) == (looks[0].stated == limits)
    low, high = limits
    values = np.asarray(Image.open(path)).astype(float)
    grey = decode(path, 1, 16, value_range=value_range)[..., 0]
    assert np.abs(grey - (values - low) / (high - low) * 255).max() <= 1.5


def test_tags_that_are_each_images_own_extremes_are_no_range(tmp_path):
    for number, limit in enumerate((300, 700, 500)):
        with_tags(tmp_path / f"{number}.tif", ramp(limit, np.uint16), s_min=0, s_max=limit)
    looks = looking.look_at(tmp_path, [f"{number}.tif" for number in range(3)])
    assert looking.settled(looks, None, None, None)[2] == (0, 1023)


@pytest.mark.parametrize("order", ["<", ">"])
def test_greys_of_16_bits_are_read_in_either_order_of_bytes(order, tmp_path):
    path = tmp_path / "deep.tif"
    Image.fromarray(ramp(65535, np.uint16).astype(f"{order}u2")).save(path)
    [look] = looking.look_at(tmp_path, [path.name])
    assert look.values == (0, 65535)
    assert decode(path, 1, 16, value_range=(0, 65535)).max() == 255


@pytest.mark.parametrize("kind", ["png", "tif", "png with alpha", "grey with alpha"])
def test_colours_of_16_bits_are_read_by_their_upper_8_and_it_is_said(kind, tmp_path):
    def write(name: str, shift: int) -> str:
        grey = ramp(65535, np.uint16) >> shift
        opaque = np.full_like(grey, 65535)
        path = str(tmp_path / f"{name}.{kind[:3] if kind != 'grey with alpha' else 'png'}")
        if kind == "grey with alpha":  # which OpenCV does not write
            raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.stack([grey, opaque], 2).reshape(16, -1))
            parts = [(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 4, 0, 0, 0)), (b"IDAT", zlib.compress(raw))]
            content = b"\x89PNG\r\n\x1a\n"
            for head, data in [*parts, (b"IEND", b"")]:
                content += struct.pack(">I", len(data)) + head + data + struct.pack(">I", zlib.crc32(head + data))
            Path(path).write_bytes(content)
        else:
            cv2.imwrite(path, np.stack([grey] * 3 + [opaque] * ("alpha" in kind), 2))
        return Path(path).name

    whole, lower = write("whole", 0), write("lower", 4)
    looks = looking.look_at(tmp_path, [whole])
    looking.check_colours(looks)
    grey = decode(tmp_path / whole, 1, 16)[..., 0].astype(int)
    assert np.abs(grey - np.linspace(0, 255, 256).reshape(16, 16)).max() <= 1.5
    assert "1 of 1 images that were looked at have 16 bits a colour, of which the upper 8" in " ".join(
        looking.remarks(looks, Decoding(3, 16), True)
    )
    with pytest.raises(Mistake, match="none exceeds 15 of 255"):
        looking.check_colours(looking.look_at(tmp_path, [lower]))


def test_colours_of_12_bits_in_16_end_a_run_before_it_starts(run, tmp_path, capfd):
    rng = np.random.default_rng(0)
    for name in ("one", "other"):
        (tmp_path / "deep" / name).mkdir(parents=True)
        for number in range(8):
            cv2.imwrite(str(tmp_path / "deep" / name / f"{number}.png"), rng.integers(0, 4096, (8, 8, 3), np.uint16))
    assert run("fit", f"--data.root={tmp_path / 'deep'}", "--data.batch_size=4") == 2
    assert "convert them to 8 bits" in capfd.readouterr().err


def test_images_of_8_bits_have_the_range_that_they_have(tmp_path):
    path = save(tmp_path / "plain.png", ramp(200, np.uint8))
    looks = looking.look_at(tmp_path, [path.name])
    assert looking.settled(looks, None, None, None)[2] == (0, 255)
    assert not looking.remarks(looks, Decoding(1, 16), given_range=False)


@pytest.mark.parametrize("value_range", [(0, 255), (0, 1)])
def test_an_image_far_beyond_the_range_of_the_run_is_refused_by_both_numbers(value_range, tmp_path):
    path = save(tmp_path / "deep.png", ramp(4095, np.uint16))
    with pytest.raises(Unreadable, match=rf"from 0 to 4095, beyond the value range 0 to {value_range[1]}"):
        decode(path, 1, 16, value_range=value_range)


def test_values_that_are_not_finite_are_refused(tmp_path):
    values = ramp(1, np.float32)
    values[3, 3] = np.nan
    with pytest.raises(Unreadable, match="not finite"):
        decode(save(tmp_path / "nan.tif", values), 1, 16, value_range=(0, 1))


def test_the_range_is_kept_in_the_run_and_serves_its_predictions(run, tmp_path):
    rng = np.random.default_rng(0)
    for name, level in (("dark", 800), ("light", 3000)):
        for number in range(16):
            values = (level + rng.integers(0, 900, (8, 8))).astype(np.uint16)
            save(tmp_path / "deep" / name / f"{number:02d}.png", values)
    root = f"--data.root={tmp_path / 'deep'}"
    assert run("fit", root, "--data.batch_size=4", "--trainer.max_epochs=3") == 0
    assert "value_range:\n  - 0.0\n  - 4095.0\n" in Path("runs/small/version_0/config.yaml").read_text()
    one = save(tmp_path / "new/one.png", np.full((8, 8), 3400, np.uint16))
    assert run("predict", root, f"--data.predict_root={one}") == 0
    assert "one.png,light," in Path("runs/small/version_0/predictions.csv").read_text()


def striped(width: int, height: int) -> np.ndarray:
    """Return black with white at the very left and the very right."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, : width // 8] = pixels[:, -(width // 8) :] = 255
    return pixels


@pytest.mark.parametrize(("fit", "edge", "corner"), [("crop", 0, 0), ("stretch", 255, 255), ("pad", 255, 128)])
def test_a_wide_image_keeps_its_sides_where_told(fit, edge, corner, tmp_path):
    path = save(tmp_path / "wide.png", striped(64, 16))
    image = decode(path, 1, 32, fit=fit, background="#808080")[..., 0]
    assert abs(int(image[16, 0]) - edge) <= 1
    assert abs(int(image[0, 0]) - corner) <= 1


def test_a_tall_image_is_padded_left_and_right(tmp_path):
    path = save(tmp_path / "tall.png", striped(64, 16).T.copy())
    assert decode(path, 1, 32, fit="pad", background="white")[0, 0] == 255
    assert decode(path, 1, 32, fit="pad", background="black")[16, 0] == 0


def test_lost_sides_are_said_of_the_median_image(tmp_path):
    names = [save(tmp_path / f"{i}.png", striped(width, 32)).name for i, width in enumerate((64, 64, 32))]
    looks = looking.look_at(tmp_path, names)
    assert "the median image loses 50%" in " ".join(looking.remarks(looks, Decoding(1, 32), True))
    assert not looking.remarks(looks, Decoding(1, 32, "pad"), True)
    assert not looking.remarks(looks[2:], Decoding(1, 32), True)


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (20, 3), (32, 1)])
def test_a_row_of_numbers_holds_the_means_of_equal_parts_of_an_image(side, channels, tmp_path):
    rng = np.random.default_rng(0)
    shape = (side, side, 3)[: 2 + channels // 3]
    images = {f"{name}/{i}.png": rng.integers(0, 256, shape, np.uint8) for name in "ab" for i in range(6)}
    for key, values in images.items():
        save(tmp_path / "images" / key, values)
    for cache_gb in (0, None):
        data = ImageData(root=str(tmp_path / "images"), cache_gb=cache_gb, cache_root=str(tmp_path / "cache"))
        data.setup("fit")
        assert (data.cache is None) == (cache_gb == 0)
        x_NF, is_category_F = data.plain(data.train_keys)
        parts = min(side, 16)
        fine = [images[key].reshape(side, side, -1).repeat(parts, 0).repeat(parts, 1) for key in data.train_keys]
        means = np.stack(fine).reshape(-1, parts, side, parts, side, channels).mean((2, 4)) / 255
        assert np.allclose(x_NF, means.reshape(len(x_NF), -1))
        assert not is_category_F.any()


def test_transparent_parts_take_the_background_and_it_is_said(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:6, 2:6] = 255  # a white drawing on nothing
    path = save(tmp_path / "drawing.png", pixels)
    assert decode(path, 1, 8).min() == 255
    assert decode(path, 1, 8, background="black").min() == 0
    said = " ".join(looking.remarks(looking.look_at(tmp_path, [path.name]), Decoding(1, 8), True))
    assert "transparent parts, which turn white; --data.background" in said


def test_pages_after_the_first_are_ignored_and_it_is_said(tmp_path):
    first, second = Image.new("L", (8, 8), 10), Image.new("L", (8, 8), 200)
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[second])
    assert decode(tmp_path / "pages.tif", 1, 8).max() == 10
    assert "several pages" in " ".join(looking.remarks(looking.look_at(tmp_path, ["pages.tif"]), Decoding(1, 8), True))


def test_a_document_that_starts_a_program_is_no_image_whatever_its_name(tmp_path):
    (tmp_path / "trick.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(Unreadable):
        decode(tmp_path / "trick.png", 1, 8)


def test_what_is_said_of_the_pixels_comes_before_training(shapes, tmp_path, run, capsys):
    for path in shapes.rglob("*.png"):
        wide = Image.open(path).resize((48, 16))
        (tmp_path / "wide" / path.parent.name).mkdir(parents=True, exist_ok=True)
        wide.save(tmp_path / "wide" / path.parent.name / path.name)
    assert run("fit", "--config=debug", f"--data.root={tmp_path / 'wide'}") == 0
    assert "the median image loses 67% at its longer sides" in capsys.readouterr().out
    data = ImageData(str(tmp_path / "wide"), fit="stretch", num_workers=0, batch_size=8)
    data.setup("fit")
    assert not data.remarks
    assert data.schema.inputs["fit"] == "stretch"
