"""Pictures and inputs of networks: of files, Pillow, NumPy and PyTorch."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from . import _native
from ._kinds import is_file, is_tensor, wrong
from ._native import Error
from ._words import failure, read

#: What a picture may be.
_PICTURE = "a path, an open binary file, the bytes of a file, an image of Pillow, or uint8 [H, W], [H, W, 3] or [H, W, 4]"
#: What images for a command may be.
_IMAGES = "a path, pictures, inputs in an array or a tensor, or a data set of PyTorch"

#: How many ranges of a pixel inputs go beyond theirs, in either direction, before it is said. Noise for a first try stays within.
_BEYOND = 5
#: The part of the range of pixels that pictures surely take more of, as in `images::open_inputs`.
_SPREAD = 0.02
#: How near to 0 and to 1 the least and the greatest of pixels are, where all are within 0..1.
_NEAR = 0.1


def array(value):
    """Returns an array, a tensor or what becomes an array as one, and anything else as it is."""
    if is_tensor(value):
        value = value.detach().cpu()
        try:
            return value.numpy()
        except TypeError:
            # NumPy has no bfloat16; every one of its numbers is a float32.
            return value.float().numpy()
    if isinstance(value, np.ndarray) and value.dtype.name.startswith(("bfloat", "float8")):
        return value.astype(np.float32)
    return value


def _floats(value, name):
    value = array(value)
    if not (hasattr(value, "__array__") or hasattr(value, "__array_interface__")):
        raise wrong(name, value, "an array or a tensor of floats, inputs of the network; `Model.input` makes them of pictures")
    value = np.asarray(value)
    if value.dtype.kind != "f":
        raise Error(f"{name} has the type {value.dtype}: expected floats, inputs of the network; `Model.input` makes them of pictures")
    return value


def floats(images, shape=None):
    """Returns inputs as float32 `[N, C, H, W]` or `[C, H, W]`, with channels first where the shape tells that they come last.

    `shape` is the `(C, H, W)` that a network takes.
    """
    if isinstance(images, Iterator) and not is_file(images):
        images = list(images)
    if isinstance(images, (list, tuple)):
        images = [_floats(one, f"image {i}") for i, one in enumerate(images)]
        if not images and shape:
            return np.empty((0, *shape), np.float32)
        shapes = {one.shape for one in images}
        if len(shapes) > 1:
            raise Error(f"the arrays have different shapes: {', '.join(str(list(one)) for one in sorted(shapes))}")
        images = np.asarray(images)
    images = _floats(images, "the array")
    expected = f"[{', '.join(map(str, shape))}]" if shape else "[C, H, W]"
    if images.ndim in (3, 4):
        last = images.shape[-1:] + images.shape[-3:-1]
        is_last = last == shape != images.shape[-3:] if shape else last[0] in (1, 3) and images.shape[-3] not in (1, 3)
        if is_last:
            images = np.moveaxis(images, -1, -3)
    if images.ndim not in (3, 4) or (shape and images.shape[-3:] != shape):
        raise Error(f"the array has the shape {list(images.shape)}: expected [N, {expected[1:]} or {expected}")
    with np.errstate(over="ignore"):
        inputs = np.ascontiguousarray(images, np.float32)
    if images.dtype.itemsize > 4:
        lost = np.argwhere(np.isinf(inputs) & np.isfinite(images))
        if lost.size:
            at = tuple(lost[0])
            raise Error(f"input {list(map(int, at))} is {images[at]:g}, which is too large for float32")
    return inputs


def doubt(inputs, preprocessing):
    """Says why inputs are none that pictures become by this preprocessing; `None` where they may be."""
    ends = [(level / preprocessing.divide - m) / s for m, s in zip(preprocessing.mean, preprocessing.std) for level in (0, 255)]
    low, high = min(ends), max(ends)
    least, most = float(inputs.min()), float(inputs.max())
    reach = _BEYOND * (high - low)
    is_beyond = most > high + reach or least < low - reach
    is_within = 0 < most - least < _SPREAD * (high - low)
    # Pixels in 0..1, of which pictures have the lightest and the darkest ones.
    is_plain = low < 0 and high > 1 and 0 <= least < _NEAR and 1 - _NEAR < most <= 1
    if not (is_beyond or is_within or is_plain):
        return None
    return (
        f"the inputs are from {least:.4g} to {most:.4g}, where this network takes pixels normalised to {low:.4g} to {high:.4g}: "
        "`Model.input` makes inputs of pictures, and `Model.preprocessing` says how"
    )


def is_several(images):
    """Tells whether something is several pictures, not one."""
    if isinstance(images, (str, bytes, bytearray, memoryview)) or is_file(images):
        return False
    return isinstance(images, (Sequence, Iterator)) or (isinstance(images, np.ndarray) and images.ndim == 4)


def picture(image):
    """Decodes a picture: a path, an open file, the bytes of a file, an image of Pillow, or a uint8 array."""
    if isinstance(image, (str, os.PathLike)):
        path = os.fsdecode(image)
        if os.path.isdir(path):
            raise failure(f"`{path}` is a folder, not a picture", f"its files are `sorted(pathlib.Path({path!r}).iterdir())`")
        data = read(path)
        try:
            return _native.Picture.decode(data)
        except Error as error:
            raise Error(f"`{path}`: {error}") from None
    if is_file(image):
        if isinstance(image, io.TextIOBase):
            raise TypeError('a picture is a file of text: open it as a binary file, `open(path, "rb")`')
        image = image.read()
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _native.Picture.decode(bytes(image))
    pixels = _of_pillow(image) if hasattr(image, "convert") else array(image)
    if not hasattr(pixels, "__array__"):
        raise wrong("a picture", image, _PICTURE)
    given = np.asarray(pixels)
    pixels = _channels_last(given)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise Error(f"a picture is {given.dtype} {list(given.shape)}: expected {_PICTURE}")
    pixels = pixels[..., :3] if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return _native.Picture.from_rgb(pixels.shape[1], pixels.shape[0], pixels.tobytes())


def _of_pillow(image):
    """Returns the pixels of an image of Pillow, of 16 bits the upper 8, as files have them; Pillow's own conversion makes them white."""
    # Pillow before 11 reads a PNG of 16 bits as 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
    if image.mode in ("I", "F"):
        raise Error(f"an image of Pillow has the mode {image.mode}, whose white is not known: convert it to L or RGB")
    return np.asarray(image.convert("RGB"))


def _channels_last(pixels):
    """Returns pixels with the channels last, which tensors have first, and grey ones without a channel."""
    if pixels.ndim >= 3 and pixels.shape[-1] not in (1, 3, 4) and pixels.shape[-3] in (1, 3):
        pixels = np.moveaxis(pixels, -3, -1)
    return pixels[..., 0] if pixels.ndim >= 3 and pixels.shape[-1] == 1 else pixels


def is_picture_file(path):
    """Tells whether a path is that of a picture, by its ending."""
    return os.path.isfile(path) and os.path.splitext(path)[1].lower() in (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def images_of(images, most):
    """Takes images that are in memory, or the paths of a list. At most `most` are wanted, which a data set need not give all of."""
    if images is None:
        return None
    is_one = hasattr(images, "convert") or isinstance(images, (bytes, bytearray, memoryview)) or is_file(images)
    images = array([images] if is_one else images)
    if isinstance(images, np.ndarray) and images.dtype.kind in "OU":
        images = images.tolist()
    if isinstance(images, np.ndarray):
        if images.dtype.kind == "f":
            return _inputs([images])
        images = _pixels(images)
    elif _is_torch_data(images):
        images = list(_of_torch(images, most))
    elif not isinstance(images, Iterable) or isinstance(images, Mapping):
        raise wrong("images", images, _IMAGES)
    images = [array(image) for image in images]
    for i, image in enumerate(images):
        if isinstance(image, (tuple, list)):
            raise TypeError(f"image {i} is a {type(image).__name__}: give images without labels, as `(image for image, _ in data)`")
        if isinstance(image, Mapping):
            keys = ", ".join(map(repr, image))
            raise TypeError(f"image {i} is a dict of {keys}: give the images alone, as `(item[KEY] for item in data)`")
    if images and all(isinstance(image, (str, os.PathLike)) for image in images):
        missing = next((image for image in images if not os.path.exists(image)), None)
        if missing is not None:
            raise failure(f"`{os.fspath(missing)}`: there is no such file", is_missing=True, named=(missing,))
        return _native.Images.files([os.fspath(image) for image in images])
    if images and all(isinstance(image, np.ndarray) and image.dtype.kind == "f" for image in images):
        return _inputs(images)
    # Batches of pictures, too.
    batches = (_pixels(image) if isinstance(image, np.ndarray) and image.ndim == 4 else [image] for image in images)
    return _native.Images.pictures([picture(image) for batch in batches for image in batch])


def _is_torch_data(images):
    """Tells whether something is a data set or a loader of PyTorch."""
    return any(kind.__module__.startswith("torch.utils.data") for kind in type(images).__mro__)


def _of_torch(images, most):
    """Yields images of PyTorch's data without what is given with them: of a data set, `most` that are spread over it; of a loader, and
    of a data set without a length, batches up to that number.
    """

    def image(item):
        return item[0] if isinstance(item, (tuple, list)) and item else item

    if not hasattr(images, "__iter__"):
        count = min(len(images), most)
        yield from (image(images[i * len(images) // count]) for i in range(count))
        return
    left = most
    for item in images:
        found = array(image(item))
        if isinstance(found, np.ndarray) and found.ndim == 4:
            found = found[:left]
        left -= len(found) if isinstance(found, np.ndarray) and found.ndim == 4 else 1
        yield found
        if left == 0:
            return


def _inputs(arrays):
    """Takes inputs of a network: one after the other, or in batches."""
    batches = [floats(one) for one in arrays]
    batches = [one if one.ndim == 4 else one[None] for one in batches]
    shapes = {one.shape[1:] for one in batches}
    if len(shapes) > 1:
        raise Error(f"the inputs have different shapes: {', '.join(str(list(shape)) for shape in sorted(shapes))}")
    if not any(map(len, batches)):
        raise Error("no images are given: the array is empty")
    return _native.Images.inputs(batches[0] if len(batches) == 1 else np.concatenate(batches))


def _pixels(images):
    """Takes one picture or several of an array of bytes, also with channels first, as tensors have them."""
    if images.dtype != np.uint8 or images.ndim not in (2, 3, 4):
        raise Error(
            f"the images are {images.dtype} {list(images.shape)}: expected inputs of the network, floats [N, C, H, W], or pictures, "
            "uint8 [N, H, W, 3]"
        )
    several = images.ndim == 4
    images = _channels_last(images)
    return images if several else images[None]
