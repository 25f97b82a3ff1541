"""Folders of images: what is taken, how it is fitted, what is refused."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxsep.data import PRESETS, Dataset, InputSpec, load_dataset
from onnxsep.errors import ConfigurationError, InputError

RAW = PRESETS["raw"]


def color_input(height: int | str = 8, width: int | str = 8) -> InputSpec:
    return InputSpec("x", ("n", 3, height, width), np.dtype(np.float32))


def gray_input(side: int) -> InputSpec:
    return InputSpec("x", ("n", 1, side, side), np.dtype(np.float32))


def load(folder: Path, spec: InputSpec, samples: int | None = None, seed: int = 0) -> Dataset:
    return load_dataset(
        str(folder), [spec], outputs=["y"], preprocessing=RAW, samples=samples, seed=seed
    )


def images(data: Dataset) -> np.ndarray:
    """All images as (n, H, W, C), preprocessed with ``RAW``: the bytes themselves."""
    return np.concatenate([feed["x"] for feed in data.batches(2)]).transpose(0, 2, 3, 1)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Red grows with the row, green with the column: survives every lossy format."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rows * 255 // max(height - 1, 1), columns * 255 // max(width - 1, 1), rows * 0]
    return np.stack(channels, axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("suffix", "tolerance"),
    [("png", 0), ("bmp", 0), ("ppm", 0), ("gif", 40), ("webp", 24), ("jpg", 40), ("JPEG", 40)],
)
def test_every_format_is_decoded(tmp_path: Path, suffix: str, tolerance: int) -> None:
    Image.fromarray(smooth(8, 8)).save(tmp_path / f"a.{suffix}")
    (decoded,) = images(load(tmp_path, color_input()))
    assert np.abs(decoded - smooth(8, 8)).max() <= tolerance


def test_sorted_by_path_with_sub_folders_and_without_hidden_and_other_files(
    tmp_path: Path,
) -> None:
    shades = {"b.png": 1, "cats/a.png": 2, "a.PNG": 0, "cats/old/z.png": 3, "dogs/a.png": 4}
    for name, shade in (*shades.items(), (".hidden.png", 99), (".cache/a.png", 99)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (shade,) * 3).save(path)
    (tmp_path / "notes.txt").write_text("no image")
    data = load(tmp_path, color_input())
    assert images(data)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert data.labels is None
    assert data.source == f"folder {tmp_path.name}, 5 images"
    assert data.preprocessing is not None
    assert data.preprocessing.name == "raw"


@dataclass(frozen=True)
class FitCase:
    """An image whose part at ``box`` (left, top, right, bottom) should fill the input."""

    name: str
    image: tuple[int, int]
    model: tuple[int, int]
    box: tuple[int, int, int, int]


FITS = [
    FitCase("exact", (8, 8), (8, 8), (0, 0, 8, 8)),
    FitCase("wide", (8, 32), (8, 16), (8, 0, 24, 8)),
    FitCase("tall, halved", (64, 16), (8, 8), (0, 24, 16, 40)),
    FitCase("enlarged", (8, 4), (16, 16), (0, 2, 4, 6)),
    FitCase("nearly the size: cut, not resampled", (33, 34), (32, 32), (1, 0, 33, 32)),
    FitCase("large input: the middle 7/8", (320, 320), (140, 140), (20, 20, 300, 300)),
    FitCase("256 for 224: cut", (256, 256), (224, 224), (16, 16, 240, 240)),
]


@pytest.mark.parametrize("case", FITS, ids=lambda case: case.name)
def test_fitted_so_that_it_covers_and_cut_in_the_middle(tmp_path: Path, case: FitCase) -> None:
    pixels = smooth(*case.image)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (fitted,) = images(load(tmp_path, color_input(*case.model)))
    assert fitted.shape == (*case.model, 3)
    left, top, right, bottom = case.box
    if (bottom - top, right - left) == case.model:
        np.testing.assert_array_equal(fitted, pixels[top:bottom, left:right])
    else:
        # Linear ramps: at output pixel i the ramp's value at the middle of what it covers.
        rows = top - 0.5 + (np.arange(case.model[0]) + 0.5) * (bottom - top) / case.model[0]
        expected = np.clip(rows, 0, case.image[0] - 1) * 255 / (case.image[0] - 1)
        step = 255 / (case.image[0] - 1)
        inner = slice(1, -1)
        np.testing.assert_allclose(fitted[inner, 1, 0], expected[inner], atol=max(step / 2, 1.5))


def test_orientation_is_obeyed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(smooth(8, 16)).save(tmp_path / "a.png", exif=exif)
    (upright,) = images(load(tmp_path, color_input(16, 8)))
    np.testing.assert_array_equal(upright, np.rot90(smooth(8, 16), -1))


def test_transparency_shows_white(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (flat,) = images(load(tmp_path, color_input()))
    assert (flat[:4].max(), flat[4:].min()) == (0, 255)


def test_transparent_palette_shows_white(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.paste(0, (0, 0, 8, 4))
    image.save(tmp_path / "a.gif", transparency=0)
    (flat,) = images(load(tmp_path, color_input()))
    assert flat[0, 0].tolist() == [255, 255, 255]
    assert flat[7, 0].tolist() == [10, 20, 30]


def test_sixteen_bit_gray_keeps_its_range(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0x8000, np.uint16)).save(tmp_path / "a.png")
    assert np.all(images(load(tmp_path, gray_input(8))) == 0x80)


def test_a_gray_model_gets_luma_and_a_color_model_repeated_gray(tmp_path: Path) -> None:
    (tmp_path / "color").mkdir()
    (tmp_path / "gray").mkdir()
    Image.new("RGB", (8, 8), (255, 127, 0)).save(tmp_path / "color" / "a.png")
    Image.new("L", (8, 8), 77).save(tmp_path / "gray" / "a.png")
    assert np.all(images(load(tmp_path / "color", gray_input(8))) == 151)
    assert np.all(images(load(tmp_path / "gray", color_input())) == 77)


def test_pipes_are_no_images(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert len(load(tmp_path, color_input())) == 1


def test_only_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), shade) for shade in ("black", "white")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    data = load(tmp_path, color_input())
    assert len(data) == 1
    assert images(data).max() == 0


def test_channels_last(tmp_path: Path) -> None:
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    spec = InputSpec("x", (1, 8, 8, 3), np.dtype(np.float16))
    (feed,) = load(tmp_path, spec).batches(4)
    assert feed["x"].dtype == np.float16
    np.testing.assert_array_equal(feed["x"][0], noise(8, 8))


def test_an_8_bit_input_is_fed_bytes(tmp_path: Path) -> None:
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    (feed,) = load(tmp_path, InputSpec("x", (1, 8, 8, 3), np.dtype(np.uint8))).batches(4)
    assert feed["x"].dtype == np.uint8
    np.testing.assert_array_equal(feed["x"][0], noise(8, 8))


@dataclass(frozen=True)
class SizeCase:
    name: str
    images: list[tuple[int, int]]
    model: tuple[int | str, int | str]
    size: tuple[int, int]
    noted: bool


SIZES = [
    SizeCase("all alike", [(64, 96), (64, 96)], ("h", "w"), (64, 96), False),
    SizeCase("small", [(20, 30)], ("h", "w"), (20, 30), False),
    SizeCase("odd size", [(70, 101), (70, 101)], ("h", "w"), (64, 96), True),
    SizeCase("mixed: the median", [(32, 32), (64, 96), (96, 128)], ("h", "w"), (64, 96), True),
    SizeCase("huge", [(96, 2048)], ("h", "w"), (32, 1024), True),
    SizeCase("one axis dynamic", [(64, 96)], (40, "w"), (40, 96), True),
]


@pytest.mark.parametrize("case", SIZES, ids=lambda case: case.name)
def test_a_dynamic_size_is_decided_and_said(tmp_path: Path, case: SizeCase) -> None:
    for number, size in enumerate(case.images):
        Image.fromarray(smooth(*size)).save(tmp_path / f"{number}.png")
    data = load(tmp_path, color_input(*case.model))
    assert images(data).shape[1:3] == case.size
    assert ("×".join(map(str, case.size)) in data.source) == case.noted


def test_samples_are_spread_by_the_seed(tmp_path: Path) -> None:
    for shade in range(40):
        Image.new("RGB", (8, 8), (shade,) * 3).save(tmp_path / f"{shade:02}.png")

    def chosen(seed: int) -> list[int]:
        data = load(tmp_path, color_input(), samples=10, seed=seed)
        assert data.source.endswith("10 images")
        return [int(shade) for shade in images(data)[:, 0, 0, 0]]

    assert [shade // 4 for shade in chosen(0)] == list(range(10))
    assert chosen(0) == chosen(0)
    assert chosen(0) != chosen(1)


def test_without_preprocessing_custom_decides_and_says_so(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    data = load_dataset(
        str(tmp_path), [color_input()], outputs=[], preprocessing=None, samples=None, seed=0
    )
    assert data.preprocessing is not None
    assert (data.preprocessing.name, data.preprocessing.assumed) == ("imagenet", True)


def test_images_are_decoded_once_as_long_as_there_is_room(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (5, 5, 5)).save(tmp_path / "a.png")
    data = load(tmp_path, color_input())
    before = images(data)
    (tmp_path / "a.png").unlink()
    np.testing.assert_array_equal(images(data), before)
    data.columns["x"].kept_bytes = 0  # type: ignore[attr-defined]
    data.columns["x"]._kept.clear()  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"a\.png"):
        images(data)


# --- what is refused ---------------------------------------------------------------------------


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"no images in it.*supported: \.jpg"):
        load(tmp_path, color_input())


def damaged_png(path: Path) -> None:
    Image.fromarray(noise(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def disguised_postscript(path: Path) -> None:
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")


def huge_header(path: Path) -> None:
    path.write_bytes(b"P6 60000 60000 255\n")


@pytest.mark.parametrize(
    "write",
    [lambda path: path.write_text("hello"), damaged_png, disguised_postscript, huge_header],
    ids=["text", "truncated", "postscript", "bomb"],
)
def test_a_file_that_cannot_be_decoded_is_named(tmp_path: Path, write: object) -> None:
    assert callable(write)
    write(tmp_path / "broken.png")
    with pytest.raises(InputError, match=r"broken\.png: (cannot be decoded|more than \d+ pixels)"):
        images(load(tmp_path, color_input()))


def test_a_model_of_several_inputs_or_other_channels(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    scalar = InputSpec("cond", (), np.dtype(bool))
    with pytest.raises(InputError, match=r"also wants 'cond' \(bool, a single value\).*\.npz"):
        load_dataset(
            str(tmp_path),
            [color_input(), scalar],
            outputs=[],
            preprocessing=RAW,
            samples=None,
            seed=0,
        )
    with pytest.raises(InputError, match=r"do not fit.*1×5×8×8"):
        load(tmp_path, InputSpec("x", (1, 5, 8, 8), np.dtype(np.float32)))


def test_no_samples(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ConfigurationError, match="not 0"):
        load(tmp_path, color_input(), samples=0)


def test_a_source_that_does_not_exist() -> None:
    with pytest.raises(InputError, match=r"nowhere/x: no such file.*a folder of images"):
        load(Path("nowhere/x"), color_input())


# --- labels.csv --------------------------------------------------------------------------------


def with_labels(folder: Path, text: str) -> Dataset:
    for name in ("a.png", "b.png", "sub/c.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return load(folder, color_input())


def test_labels_go_with_their_files(tmp_path: Path) -> None:
    data = with_labels(
        tmp_path, "\ufeffwho,label,file\nme,7,sub\\c.png\nme, 5 ,./a.png\nyou,6,b.png\n"
    )
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [5, 6, 7]


def test_labels_follow_the_chosen_samples(tmp_path: Path) -> None:
    rows = ["file,label"]
    for shade in range(30):
        Image.new("RGB", (8, 8), (shade,) * 3).save(tmp_path / f"{shade:02}.png")
        rows.append(f"{shade:02}.png,{shade}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    data = load(tmp_path, color_input(), samples=7)
    assert data.labels is not None
    assert data.labels.tolist() == images(data)[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,label\na.png,1\n", r"labels\.csv:1: no column 'file'"),
        ("file;label\na.png;1\n", r"labels\.csv:1: no column 'file'"),
        ("", r"labels\.csv:1: no column"),
        ("file,label\nz.png,1\n", r"labels\.csv:2: no image 'z\.png'"),
        ("file,label\na.png,1\na.png,2\n", r"labels\.csv:3: 'a\.png' has a label already"),
        ("file,label\na.png,cat\n", r"labels\.csv:2: the label 'cat'"),
        ("file,label\na.png,-1\n", r"labels\.csv:2: the label '-1'"),
        ("file,label\na.png\n", r"labels\.csv:2: the label ''"),
        ("file,label\na.png,99999999999999999999\n", r"labels\.csv:2: the label '9999"),
        ("file,label\na.png,1\n", r"no label for 2 of 3 images, 'b\.png' first"),
        ("file,label\n../../etc/passwd,1\n", r"labels\.csv:2: no image '\.\./"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        with_labels(tmp_path, text)


def test_labels_in_another_encoding(tmp_path: Path) -> None:
    with_labels(tmp_path, "file,label\na.png,1\nb.png,1\nsub/c.png,1\n")
    (tmp_path / "labels.csv").write_bytes("file,label\nä.png,1".encode("utf-16"))
    with pytest.raises(InputError, match=r"labels\.csv: not a CSV file in UTF-8"):
        load(tmp_path, color_input())
