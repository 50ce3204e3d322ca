"""A user's own images: what is refused, and the cache of decoded images."""

import os
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import image_folder
from benchmarks.image_folder import ImageFolderConfig
from benchmarks.images import decoding
from benchmarks.images.decoding import decode_images
from dsn.errors import InputError


@pytest.fixture
def own(blocks, tmp_path):
    """A copy of the small train and test folders that a test may damage."""
    return shutil.copytree(blocks["folder"]["root"], tmp_path / "own")


def config(root, **changes):
    return ImageFolderConfig(**{"root": root, "tasks": 3, "image_size": 10, "cache": None, **changes})


def refused(root, message, **changes):
    with pytest.raises(InputError, match=message) as error:
        image_folder.build(config(root, **changes), 0)
    return str(error.value)


def test_missing_folder(tmp_path):
    assert str(tmp_path / "none") in refused(tmp_path / "none", "there is no folder")


def test_missing_test_folder(own):
    shutil.rmtree(own / "test")
    assert str(own / "test") in refused(own, "there is no folder")


def test_empty_class_folder(own):
    for path in (own / "train" / "class_2").iterdir():
        path.unlink()
    assert str(own / "train" / "class_2") in refused(own, "has no images")


def test_class_in_test_alone(own):
    shutil.rmtree(own / "train" / "class_1")
    refused(own, "class_1 in test but not in train")


def test_class_in_train_alone(own):
    shutil.rmtree(own / "test" / "class_1")
    refused(own, "class_1 in train but not in test")


def test_unreadable_image(own):
    damaged = own / "train" / "class_3" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    assert str(damaged) in refused(own, "cannot read the image")


def test_one_folder_needs_test_share_and_two_do_not(own):
    refused(own / "train", "set stream.test_share")
    refused(own, "stream.test_share", test_share=0.2)


def test_one_image_cannot_be_split(own):
    for path in list((own / "train" / "class_0").iterdir())[1:]:
        path.unlink()
    refused(own / "train", "class_0 has one image", test_share=0.2)


def test_folder_without_class_folders(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "loose.png")
    refused(tmp_path, "no class folders", test_share=0.2)


def test_more_classes_than_there_are(own):
    refused(own, "there are 6", classes_per_task=3)


def test_a_class_may_be_called_train(own):
    (own / "train" / "class_0").rename(own / "train" / "train")
    images = image_folder.load(config(own / "train", test_share=0.5))
    assert images.classes[-1] == "train" and len(images.classes) == 6


def test_hidden_and_other_files_are_left_out(own):
    (own / "train" / "class_0" / "notes.txt").write_text("no image")
    (own / "train" / "class_0" / "._0.png").write_text("no image")
    (own / "train" / ".cache").mkdir()
    assert image_folder.load(config(own)).train_y.bincount().tolist() == [6] * 6


def test_images_may_lie_deeper(own):
    (own / "test" / "class_0").rename(own / "moved")
    (own / "test" / "class_0").mkdir()
    (own / "moved").rename(own / "test" / "class_0" / "images")
    assert image_folder.load(config(own)).test_y.bincount().tolist() == [2] * 6


def test_grayscale_and_scaling(tmp_path):
    for value in (0, 255):
        (tmp_path / str(value)).mkdir()
        for index in range(2):
            Image.new("RGB", (9, 5), (value, value, value)).save(tmp_path / str(value) / f"{index}.jpg")
    images = image_folder.load(config(tmp_path, test_share=0.5, channels="grayscale", image_size=4))
    assert images.train_x.shape == (2, 1, 4, 4)
    assert images.train_x.flatten(1).unique(dim=1).flatten().tolist() == [0, 255]


def test_cache_is_read_and_a_changed_file_makes_a_new_entry(own, tmp_path):
    cache = tmp_path / "cache"
    paths = sorted((own / "train" / "class_0").iterdir())

    def decode():
        return decode_images(paths, size=10, channels=3, cache=cache)

    fresh = decode_images(paths, size=10, channels=3, cache=None)
    assert torch.equal(decode(), fresh)
    [entry] = cache.iterdir()
    np.save(entry, np.full(fresh.shape, 7, np.uint8))
    assert (decode() == 7).all()

    Image.new("RGB", (10, 10), (1, 2, 3)).save(paths[0])
    changed = decode()
    assert changed[0, :, 0, 0].tolist() == [1, 2, 3] and torch.equal(changed[1:], fresh[1:])
    assert len(list(cache.iterdir())) == 2


def test_cache_notices_a_change_that_keeps_the_size(tmp_path):
    image = tmp_path / "0.bmp"
    Image.new("RGB", (4, 4), (9, 9, 9)).save(image)
    assert decode_images([image], size=4, channels=3, cache=tmp_path / "cache").unique().tolist() == [9]
    Image.new("RGB", (4, 4), (8, 8, 8)).save(image)
    os.utime(image, (1, 1))
    assert decode_images([image], size=4, channels=3, cache=tmp_path / "cache").unique().tolist() == [8]


def test_damaged_cache_entry_is_decoded_again(own, tmp_path):
    cache = tmp_path / "cache"
    paths = sorted((own / "train" / "class_0").iterdir())
    fresh = decode_images(paths, size=10, channels=3, cache=cache)
    [entry] = cache.iterdir()
    entry.write_bytes(entry.read_bytes()[:200])
    assert torch.equal(decode_images(paths, size=10, channels=3, cache=cache), fresh)
    assert [path.name for path in cache.iterdir()] == [entry.name]


def test_cache_that_cannot_be_written(own, tmp_path):
    (tmp_path / "cache").write_text("a file, no folder")
    refused(own, "set stream.cache", cache=tmp_path / "cache")


def test_damaged_image_leaves_no_cache(own, tmp_path):
    (own / "train" / "class_0" / "0.png").write_bytes(b"")
    refused(own, "cannot read the image", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("size", [40_000, 1_000_000])
def test_images_beyond_the_memory_are_refused_before_one_is_read(own, monkeypatch, size):
    monkeypatch.setattr(decoding, "memory_bytes", lambda: 8e9)
    monkeypatch.setattr(decoding, "_decode", lambda *_: pytest.fail("it began"))
    said = f"images of {size} x {size} take .* this machine has 8.0 GB; set stream.cache"
    refused(own, said, image_size=size, cache=None)


def test_images_beyond_the_disk_are_refused_before_one_is_read(own, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=2e6))
    monkeypatch.setattr(decoding, "_decode", lambda *_: pytest.fail("it began"))
    refused(own, "the disk of .* has 0.0 GB left", image_size=900, cache=tmp_path / "a" / "cache")
    assert not (tmp_path / "a").exists()


def test_images_beyond_the_memory_lie_on_the_disk(own, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "memory_bytes", lambda: 8)
    monkeypatch.setattr(decoding, "_MAPPED", 1)
    images = image_folder.load(config(own, cache=tmp_path / "cache"))
    monkeypatch.undo()
    plain = image_folder.load(config(own, cache=None))
    assert torch.equal(images.train_x, plain.train_x) and torch.equal(images.test_x, plain.test_x)
    mapped = Path("/proc/self/maps")
    if mapped.is_file():
        assert str(tmp_path / "cache") in mapped.read_text()


class Killed(BaseException):
    """In the place of SIGKILL."""


@pytest.mark.parametrize("killed_at", [1, 2, 4])
def test_decoding_goes_on_where_it_was_killed(own, tmp_path, monkeypatch, killed_at):
    paths = sorted((own / "train").glob("*/*"))
    options = {"size": 10, "channels": 3, "cache": tmp_path / "cache"}
    whole = decode_images(paths, **options | {"cache": None})
    monkeypatch.setattr(decoding, "_AT_ONCE", 2 * 3 * 10 * 10)
    decode, parts = decoding._decode, []

    def decoding_until(paths, pixels, part):
        if len(parts) == killed_at:
            raise Killed
        parts.append(part)
        return decode(paths, pixels, part)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_decode", decoding_until)
        with pytest.raises(Killed):
            decode_images(paths, **options)
        assert list((tmp_path / "cache").glob("*.lock"))  # another process may wait for it
        parts.clear()
        patch.setattr(decoding, "_decode", lambda *args: parts.append(args[2]) or decode(*args))
        assert torch.equal(decode_images(paths, **options), whole)
    assert [part.start for part in parts] == list(range(2 * killed_at, len(paths), 2))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]


def test_an_interrupted_file_that_was_damaged_is_begun_again(own, tmp_path, monkeypatch):
    paths = sorted((own / "train").glob("*/*"))
    options = {"size": 10, "channels": 3, "cache": tmp_path / "cache"}
    whole = decode_images(paths, **options | {"cache": None})
    monkeypatch.setattr(decoding, "_AT_ONCE", 3 * 10 * 10)
    for suffix, content in ((".unfinished", b"no array"), (".json", b"[3")):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(decoding, "_refuse_dark", killed)
            decode_images(paths, **options)
        (file,) = (tmp_path / "cache").glob(f"*{suffix}")
        file.write_bytes(content)
        assert torch.equal(decode_images(paths, **options), whole)
        (entry,) = (tmp_path / "cache").iterdir()
        entry.unlink()


def killed(*_arguments):
    raise Killed


def test_memory_that_others_have_taken_is_one_error_too(own, monkeypatch):
    def none_left(*_arguments):
        raise MemoryError

    monkeypatch.setattr(decoding, "_decode", none_left)
    refused(own, "make them smaller .stream.image_size.", cache=None)
