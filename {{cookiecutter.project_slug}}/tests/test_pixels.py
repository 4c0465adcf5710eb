"""What becomes of an image's pixels: values of any depth, sides, transparency, pages; and what is said of it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from project_package.data import ImageData
from project_package.engine.decoding import Unreadable, decode
from project_package.engine.images import Decoding
from project_package.engine.looks import look_at, remarks, settled


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
    looks = look_at(tmp_path, [path.name])
    side, channels, value_range = settled(looks, None, None, None)
    assert (side, channels) == (16, 1)
    assert value_range == pytest.approx(limits)
    grey = decode(path, 1, 16, value_range=value_range)[..., 0].astype(int)
    assert np.abs(grey - np.linspace(0, 255, 256).reshape(16, 16)).max() <= 1.5
    said = remarks(looks, Decoding(1, 16, value_range=value_range), given_range=False)
    assert "--data.value_range" in " ".join(said)


def test_a_given_range_is_kept_and_nothing_is_said(tmp_path):
    path = save(tmp_path / "deep.png", ramp(1000, np.uint16))
    looks = look_at(tmp_path, [path.name])
    assert settled(looks, 16, 1, (0, 2000))[2] == (0, 2000)
    assert not remarks(looks, Decoding(1, 16, value_range=(0, 2000)), given_range=True)
    assert int(decode(path, 1, 16, value_range=(0, 2000)).max()) in (127, 128)


def test_images_of_8_bits_have_the_range_that_they_have(tmp_path):
    path = save(tmp_path / "plain.png", ramp(200, np.uint8))
    looks = look_at(tmp_path, [path.name])
    assert settled(looks, None, None, None)[2] == (0, 255)
    assert not remarks(looks, Decoding(1, 16), given_range=False)


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
    looks = look_at(tmp_path, names)
    assert "the median image loses 50%" in " ".join(remarks(looks, Decoding(1, 32), True))
    assert not remarks(looks, Decoding(1, 32, "pad"), True)
    assert not remarks(looks[2:], Decoding(1, 32), True)


def test_transparent_parts_take_the_background_and_it_is_said(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:6, 2:6] = 255  # a white drawing on nothing
    path = save(tmp_path / "drawing.png", pixels)
    assert decode(path, 1, 8).min() == 255
    assert decode(path, 1, 8, background="black").min() == 0
    said = " ".join(remarks(look_at(tmp_path, [path.name]), Decoding(1, 8), True))
    assert "transparent parts, which turn white; --data.background" in said


def test_pages_after_the_first_are_ignored_and_it_is_said(tmp_path):
    first, second = Image.new("L", (8, 8), 10), Image.new("L", (8, 8), 200)
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[second])
    assert decode(tmp_path / "pages.tif", 1, 8).max() == 10
    assert "several pages" in " ".join(remarks(look_at(tmp_path, ["pages.tif"]), Decoding(1, 8), True))


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
