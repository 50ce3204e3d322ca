"""Image files of every kind: right pixels, or one sentence that names the file."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import image_folder
from benchmarks.image_folder import ImageFolderConfig
from benchmarks.images.decoding import decode_images
from dsn.errors import InputError

RAMP = np.linspace(0, 1, 256).reshape(16, 16)


def save(folder: Path, name: str, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(folder / name, **options)
    return folder / name


def decode(*paths: Path, channels: int = 1, cache: Path | None = None) -> torch.Tensor:
    return decode_images(list(paths), size=16, channels=channels, cache=cache)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("x.png", (RAMP * 65535).astype("uint16")),
        ("x.tif", (RAMP * 65535).astype("uint16")),
        ("x.pgm", (RAMP * 65535).astype("uint16")),
        ("x.tif", (RAMP * (2**31 - 1)).astype("int32")),
        ("x.tif", RAMP.astype("float32")),
        ("x.png", (RAMP * 255).round().astype("uint8")),
        ("x.tif", (RAMP * 255).round().astype("uint8")),
    ],
)
def test_every_depth_gives_the_same_levels(tmp_path, name, pixels, channels) -> None:
    x = decode(save(tmp_path, name, pixels), channels=channels)
    assert (x.flatten(1).int()[:, :256] - torch.arange(256)).abs().max() <= 1
    assert len(x.unique()) == 256


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        ("x.png", (RAMP * 4095).astype("uint16"), "brighter than 6.2%"),
        ("x.tif", (RAMP * 4095).astype("int32"), "convert them to 8 bits"),
        ("x.tif", (RAMP * 255).astype("float32"), "go from 0 to 255, and 0 to 1 is what"),
        ("x.tif", (RAMP - 0.5).astype("float32"), "go from -0.5 to 0.5"),
        ("x.tif", (RAMP * np.nan).astype("float32"), "go from nan"),
        ("x.tif", (RAMP * -100).astype("int32"), "go from -100"),
    ],
)
def test_ranges_that_nobody_knows_are_refused(tmp_path, name, pixels, message) -> None:
    path = save(tmp_path, name, pixels)
    with pytest.raises(InputError, match=message) as error:
        decode(path)
    assert str(path) in str(error.value)


def test_a_dark_image_among_bright_ones_stays_dark(tmp_path) -> None:
    paths = [save(tmp_path, f"{i}.png", (RAMP * top).astype("uint16")) for i, top in enumerate((4095, 65535))]
    x = decode(*paths)
    assert (int(x[0].max()), int(x[1].max())) == (16, 255)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_the_camera_says(tmp_path, name, orientation) -> None:
    from PIL import ImageOps

    pixels = np.zeros((16, 16, 3), "uint8")
    pixels[:8, :8], pixels[:8, 8:] = 255, 128
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, name, pixels, exif=exif, **({"lossless": True} if name == "x.webp" else {}))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(decode(path, channels=3)[0].permute(1, 2, 0).numpy(), expected)
    if orientation == 3:
        assert expected[:8, :8].mean() < 10 and expected[8:, 8:].mean() > 245


def test_broken_exif_data_change_nothing(tmp_path) -> None:
    pixels = (RAMP * 255).astype("uint8")
    path = save(tmp_path, "x.jpg", pixels, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x00")
    assert torch.equal(decode(path), decode(save(tmp_path, "y.jpg", pixels)))


# ---- folders -------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path) -> Path:
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(3):
                save(tmp_path / "data" / part / name, f"{i}.png", (RAMP * 80 * (i + 1)).astype("uint8"))
    return tmp_path / "data"


CACHES = ["cache", None]


def load(root: Path, cache: str | None):
    folder = None if cache is None else root.parent / cache
    return image_folder.load(ImageFolderConfig(root=root, tasks=1, image_size=16, cache=folder))


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("kind", ["broken link", "circular link", "pipe", "link to a pipe", "unreadable"])
def test_what_is_no_readable_file_is_refused_by_name(root, cache, kind, monkeypatch) -> None:
    path = root / "train" / "a" / "bad.png"
    if kind == "broken link":
        path.symlink_to("/nowhere.png")
    elif kind == "circular link":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        os.mkfifo(root / "pipe")
        path.symlink_to(root / "pipe")
    else:
        path.write_bytes((root / "train" / "a" / "0.png").read_bytes())
        opened = Image.open

        def refuse(name, *rest):
            if Path(name) == path:
                raise PermissionError(13, "Permission denied", str(name))
            return opened(name, *rest)

        monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError, match="cannot read the image .*bad.png"):
        load(root, cache)


@pytest.mark.parametrize("cache", CACHES)
def test_names_that_are_no_utf8(root, cache, tmp_path) -> None:
    for old, new in ((root / "train" / "a" / "0.png", b"\xc4\xe3.png"), (root / "train" / "b", b"\xb0"),
                     (root / "test" / "b", b"\xb0")):  # fmt: skip
        try:
            os.rename(os.fsencode(old), os.fsencode(old.parent) + b"/" + new)
        except OSError:
            pytest.skip("this file system takes UTF-8 alone")
    images = load(root, cache)
    assert images.classes == ["a", "\\xb0"]
    assert len(images.train_x) == 6
    bad = os.fsencode(root) + b"/train/a/\xff.png"
    Path(os.fsdecode(bad)).write_bytes(b"no image")
    with pytest.raises(InputError) as error:
        load(root, cache)
    str(error.value).encode("utf-8")
    assert "\\xff.png" in str(error.value)


def test_what_is_left_out_is_counted_in_one_line(root, tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (root / "train" / ".hidden").write_text("")
        load(root, None)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / "train" / "a" / "more").symlink_to(elsewhere)
    (root / "train" / "a" / "notes.txt").write_text("")
    (root / "train" / "b" / "deep").mkdir()
    (root / "train" / "b" / "deep" / "x.gif").write_text("")
    (root / "train" / "loose.png").write_bytes((root / "train" / "a" / "0.png").read_bytes())
    (root / "train" / "a" / "folder.png").mkdir()
    with pytest.warns(UserWarning) as said:
        images = load(root, None)
    [line] = [str(w.message) for w in said]
    assert line == (
        f"{root / 'train'}: left out 2 files with other endings, 1 linked folders, "
        "1 loose files outside of the class folders"
    )
    assert len(images.train_x) == 6


def test_a_class_folder_may_be_a_link(root, tmp_path) -> None:
    (root / "train" / "a").rename(tmp_path / "moved")
    (root / "train" / "a").symlink_to(tmp_path / "moved")
    assert load(root, None).train_y.bincount().tolist() == [3, 3]
