#!/usr/bin/env python3
"""Makes the golden files of tests/golden.rs: what PIL and torchvision make of images.

    /opt/venv/bin/python crates/images/tests/golden/make.py

`images/` are small pictures drawn here from formulas; `expected/` holds, for each picture and preprocessing in
`golden.json`, the whole result as torchvision gives it (uint8, before normalising). If ../shared/data/imagenet/val is there, `imagenet.json`
holds sampled pixels of some of its photographs (the photographs themselves are not ours to check in).
"""

import json
import zlib
from pathlib import Path

import numpy as np
import PIL
import torchvision
from PIL import Image
from torchvision.transforms import v2

HERE = Path(__file__).parent
SHARED = HERE.parents[4] / "shared/data/imagenet/val"
PHOTOGRAPHS = 20
SAMPLES = 24


def picture(width, height, seed=0):
    """Smooth colours, edges and a little fine detail."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    r = 127 + 120 * np.sin(x / 9 + seed) * np.cos(y / 13)
    g = 255 * (x + 2 * y) / (width + 2 * height)
    b = 127 + 100 * np.sin((x * x + y * y) / 900 + seed)
    disc = (x - width * 0.6) ** 2 + (y - height * 0.4) ** 2 < (min(width, height) * 0.25) ** 2
    rgb = np.stack([np.where(disc, 230, r), np.where(disc, 40, g), np.where(disc, 60, b)], -1)
    rgb += 12 * ((x.astype(int) ^ y.astype(int)) % 3)[..., None]
    return Image.fromarray(rgb.clip(0, 255).astype(np.uint8))


def draw(folder):
    folder.mkdir(exist_ok=True)
    wide, tall = picture(97, 71), picture(64, 103, seed=1)
    alpha = Image.fromarray((np.indices((71, 97)).sum(0) * 3 % 256).astype(np.uint8))
    wide.save(folder / "rgb.png")
    tall.save(folder / "tall.png")
    picture(20, 45).save(folder / "small.png")
    wide.convert("L").save(folder / "gray.png")
    wide.convert("1").save(folder / "bits.png")
    Image.merge("LA", [wide.convert("L"), alpha]).save(folder / "gray_alpha.png")
    Image.merge("RGBA", [*wide.split(), alpha]).save(folder / "rgba.png")
    palette = wide.quantize(32)
    palette.save(folder / "palette.png")
    palette.save(folder / "palette_transparent.png", transparency=3)
    wide.save(folder / "rgb.bmp")
    wide.save(folder / "lossless.webp", lossless=True)
    write_png16(folder / "rgb16.png", wide, 2)
    write_png16(folder / "gray16.png", wide.convert("L"), 0)
    wide.save(folder / "420.jpg", quality=90)
    wide.save(folder / "422.jpg", quality=85, subsampling="4:2:2")
    wide.save(folder / "444.JPEG", quality=75, subsampling="4:4:4")
    tall.save(folder / "progressive.jpg", quality=80, progressive=True)
    wide.convert("L").save(folder / "gray.jpg", quality=90)
    wide.convert("CMYK").save(folder / "cmyk.jpg", quality=90)
    # Of an animation the first frame counts.
    frames = [picture(24, 18, seed=seed) for seed in range(3)]
    frames[0].save(folder / "animated.png", save_all=True, append_images=frames[1:], duration=50)
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:], duration=50, lossless=True)
    # Orientation 6 in EXIF, which torchvision's loader leaves alone.
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(folder / "rotated.jpg", quality=90, exif=exif)


def write_png16(path, image, colour_type):
    """PIL cannot write 16-bit RGB."""
    samples = np.asarray(image).astype(np.uint16) * 257 // 256 * 251 + 77
    samples = samples.clip(0, 65535).astype(">u2").reshape(image.height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in samples)

    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = image.width.to_bytes(4, "big") + image.height.to_bytes(4, "big") + bytes([16, colour_type, 0, 0, 0])
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    )


def preprocess(path, resize, crop, grey=False):
    """The uint8 image that torchvision's evaluation transform passes to ToTensor. A pair is height and width."""
    with open(path, "rb") as file:
        image = Image.open(file)
        if image.mode == "I;16":
            # convert() would clip every value above 255 to white.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("RGB")
    steps = [v2.Grayscale(1)] if grey else []
    if resize:
        steps.append(v2.Resize(resize, interpolation=v2.InterpolationMode.BILINEAR, antialias=True))
    if crop:
        steps.append(v2.CenterCrop(crop))
    return np.asarray(v2.Compose(steps)(image) if steps else image)


def main():
    draw(HERE / "images")
    (HERE / "expected").mkdir(exist_ok=True)
    cases = []
    for path in sorted((HERE / "images").iterdir()):
        sizes = [(48, 32, False)]
        if path.name in ("rgb.png", "420.jpg"):
            sizes += [(None, 32, False), (33, None, False), (90, 80, False), (None, None, True)]
        if path.suffix in (".jpg", ".JPEG"):
            sizes += [(None, 40, False)]
        if path.name in ("rgb.png", "tall.png", "palette_transparent.png", "cmyk.jpg"):
            sizes += [((24, 96), None, False), ((24, 96), None, True), (48, (24, 40), True), (16, (40, 10), False)]
        for resize, crop, grey in sizes:
            result = preprocess(path, resize, crop, grey)
            named = ["x".join(map(str, size)) if isinstance(size, tuple) else size for size in (resize, crop)]
            expected = f"{path.name}-{named[0]}-{named[1]}{'-grey' if grey else ''}.png"
            Image.fromarray(result).save(HERE / "expected" / expected, optimize=True)
            case = {"file": path.name, "resize": resize, "crop": crop, "expected": expected}
            cases.append(case | ({"grey": True} if grey else {}))
    write(HERE / "golden.json", cases)
    if SHARED.is_dir():
        rng = np.random.default_rng(0)
        cases = []
        for path in sorted(SHARED.glob("*.jpg"))[:PHOTOGRAPHS]:
            for resize, crop in [(None, None), (232, 224), (128, 112)]:
                result = preprocess(path, resize, crop)
                height, width, _ = result.shape
                places = [(int(rng.integers(height)), int(rng.integers(width))) for _ in range(SAMPLES)]
                cases.append({
                    "file": path.name,
                    "resize": resize,
                    "crop": crop,
                    "size": [height, width],
                    "sum": int(result.sum(dtype=np.int64)),
                    "samples": [[y, x, *map(int, result[y, x])] for y, x in places],
                })
        write(HERE / "imagenet.json", cases)


def write(path, cases):
    versions = {"pillow": PIL.__version__, "torchvision": torchvision.__version__}
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path.write_text(f'{{"versions":{json.dumps(versions)},"cases":[\n{lines}\n]}}\n')


main()
