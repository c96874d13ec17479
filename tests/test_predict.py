"""A person's own images: read whatever they are, classified as the network does, damage named."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import runpy
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, Outcome
from PIL import Image

from resnet_cifar import compose, load_model, text, train
from resnet_cifar.data.synthetic import CLASSES
from resnet_cifar.errors import UserError
from resnet_cifar.trained import photos, predict

SHAPES = ROOT / "docs" / "images" / "shapes"
VAL = 100
SETTING = [*TINY, f"data.val_size={VAL}", "trainer.progress=quiet", "optimizer.lr=0.1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of a cell."""
    root = f"output_root={tmp_path_factory.mktemp('runs')}"
    return [train(compose([*SETTING, root, f"seed={seed}"])) for seed in (0, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validation images, written as PNG."""
    folder = tmp_path_factory.mktemp("photos")
    for i, pixels in enumerate(compose(SETTING).data.load().val.pixels):
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    capsys.readouterr()
    code = predict.main([str(argument) for argument in arguments])
    return Outcome(code, *capsys.readouterr())


def test_a_hundred_images_get_the_network_s_class(
    runs: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever its two best logits in float32 are further apart than rounding can bring them."""
    outcome = call(capsys, runs[0], folder, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    said = json.loads(outcome.out)
    assert [Path(each["image"]).name for each in said["images"]] == [
        f"{i:03}.png" for i in range(VAL)
    ]
    assert not any(each["resized"] for each in said["images"])
    model = load_model(runs[0], device="cpu")
    pixels = compose(SETTING).data.load().val.pixels
    scaled = (pixels / 255 - model.normalisation.mean) / model.normalisation.std
    with torch.inference_mode():
        logits = model.network(torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32)))
    best, second = logits.topk(2).values.T
    sure = (best - second > 1e-3).tolist()
    assert sum(sure) > VAL / 2
    classes = [model.classes[i] for i in logits.argmax(1)]
    assert [c for c, s in zip(classes, sure, strict=True) if s] == [
        each["class"] for each, s in zip(said["images"], sure, strict=True) if s
    ]
    probabilities = [list(each["probabilities"].values()) for each in said["images"]]
    np.testing.assert_allclose(probabilities, logits.softmax(1), atol=1e-5)


def test_several_runs_are_averaged(
    runs: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [folder / "000.png", folder / "001.png"]
    each = [json.loads(call(capsys, run, *files, "--json").out)["images"] for run in runs]
    # A cell is its seeds; a run set aside is none of them, and a file given twice is one.
    shutil.copytree(runs[0], aside := runs[0].with_name("seed=0.2026-01-01T00-00-00"))
    together = json.loads(call(capsys, *files, runs[0].parent, files[0], "--json").out)
    shutil.rmtree(aside)
    assert [run["run"] for run in together["runs"]] == [str(run) for run in runs]
    assert len(together["images"]) == 2
    for i, image in enumerate(together["images"]):
        for name, probability in image["probabilities"].items():
            mean = np.mean([of[i]["probabilities"][name] for of in each])
            assert probability == pytest.approx(mean)
        assert image["probability"] == max(image["probabilities"].values())


def test_the_pictures_to_try_are_what_their_command_draws(tmp_path: Path) -> None:
    """One of each class, small files, and none that a run has seen."""
    runpy.run_path(str(SHAPES.with_suffix(".py")))["draw_shapes"](tmp_path)
    names = [path.name for path in sorted(SHAPES.iterdir())]
    assert sorted(name.replace("_", " ") for name in names) == sorted(f"{c}.png" for c in CLASSES)
    assert [path.name for path in sorted(tmp_path.iterdir())] == names
    split = compose(SETTING).data.load()
    for name in names:
        assert (SHAPES / name).stat().st_size < 10_000
        with Image.open(tmp_path / name) as drawn, Image.open(SHAPES / name) as kept:
            np.testing.assert_array_equal(np.asarray(drawn), np.asarray(kept), name)
            original = np.asarray(kept)[::4, ::4]
        for images in (split.train, split.val):
            assert not (images.pixels == original).all((1, 2, 3)).any()


@pytest.mark.parametrize("terminal", [True, False])
def test_eighty_columns_hold_the_pictures_and_the_runs(
    terminal: bool,
    runs: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each picture is a line, numbers are whole and aligned, and a cell is named once."""
    monkeypatch.setattr(text, "on_terminal", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(ROOT)
    lines = call(capsys, *runs, SHAPES.relative_to(ROOT)).out.splitlines()
    assert lines[0] == str(runs[0].parent)
    assert [line.split()[0] for line in lines[1:3]] == ["seed=0", "seed=1"]
    assert lines[4] == "mean of the 2 runs' probabilities"
    table = lines[6:]
    assert len(table) == len(CLASSES)
    assert all(len(line.rstrip()) <= 80 for line in lines[1:])
    assert all(re.search(r" \d+\.\d  .* \d+\.\d  128×128$", line.rstrip()) for line in table)
    points = [[match.start() for match in re.finditer(r"\.\d ", line)] for line in table]
    assert len(points[0]) == 2
    assert all(each == points[0] for each in points)


@pytest.mark.soak
def test_the_demo_s_best_run_names_the_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(compose(["experiment=quickstart", "trainer.threads=1", f"output_root={tmp_path}"]))
    said = json.loads(call(capsys, run, SHAPES, "--json").out)["images"]
    right = [Path(each["image"]).stem.replace("_", " ") == each["class"] for each in said]
    assert sum(right) >= 8


def test_tables_say_what_was_done(
    runs: list[Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (640, 480), "red").save(tmp_path / "red, wide.jpg")
    Image.new("RGB", (20, 20), "red").save(small := tmp_path / "small.bmp")
    (tmp_path / "[b]broken[b].png").write_bytes(b"no image")
    (tmp_path / ".hidden.png").write_bytes(b"nobody looks")
    (tmp_path / "notes.txt").write_text("nor here")
    arguments = (runs[0], tmp_path, folder / "000.png")
    table = call(capsys, *arguments)
    assert table.code == 1  # something was left out
    assert table.err == f"error: {tmp_path}/[b]broken[b].png is not a PNG, JPEG, WebP or BMP file\n"
    for ending in ("  640×480, 25 % cut off\n", "  20×20, enlarged\n", "  32×32\n"):
        assert table.out.count(ending) == 1
    small.unlink()
    assert "last weights, epoch 2 (val " in table.out
    lines = list(csv.DictReader(io.StringIO(call(capsys, *arguments, "--csv").out)))
    assert [line["image"] for line in lines] == [f"{tmp_path}/red, wide.jpg", f"{folder}/000.png"]
    assert [line["resized"] for line in lines] == ["True", "False"]
    assert float(lines[0][f"probability of {lines[0]['class']}"]) == float(lines[0]["probability"])
    left_out = json.loads(call(capsys, *arguments, "--json").out)["left_out"]
    assert [Path(path).name for path in left_out] == ["[b]broken[b].png"]


def test_names_of_images_come_back(
    runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two that are not UTF-8, and those that a spreadsheet or a terminal would obey."""
    monkeypatch.chdir(tmp_path)
    names = ["\udcff.png", "\udcfe.png", "+1.png", "=cmd|x.png", "[red]\x1b[31m.png", "\t=1.png"]
    for name in names:
        Image.new("RGB", (32, 32), "red").save(name)
    run = runs[0].resolve()
    said = json.loads(call(capsys, run, *names, "--json").out)
    assert [image["image"] for image in said["images"]] == names
    out = call(capsys, run, *names, "--csv").out
    assert "\x1b" not in out
    fields = [line["image"] for line in csv.DictReader(io.StringIO(out))]
    assert not any(field.startswith(("=", "+", "-", "@", "\t")) for field in fields)
    escaped = [field.encode("latin-1", "backslashreplace") for field in fields]
    assert [Path(field.decode("unicode_escape")) for field in escaped] == list(map(Path, names))
    table = call(capsys, run, *names).out
    assert all(text in table for text in (r"\udcff.png", r"\udcfe.png", r"[red]\x1b[31m.png"))


def test_what_is_refused(
    runs: list[Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object) -> str:
        outcome = call(capsys, *arguments)
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err.count("\n") == 1
        return outcome.err

    assert "names no PNG, JPEG, WebP or BMP file" in refused(runs[0])
    assert f"{tmp_path} names no PNG, JPEG, WebP or BMP file" in refused(runs[0], tmp_path)
    assert f"no run among {folder}" in refused(folder)
    assert "seed=7 is not there" in refused(runs[0], runs[0].with_name("seed=7"), folder)


STRIPES = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from resnet_cifar.data.datasets import THE_STUDYS, Dataset, Images, Normalisation, Split

@dataclass
class Stripes(Dataset):
    NAME: ClassVar[str] = "stripes"
    CLASSES: ClassVar[tuple[str, ...]] = ("lying", "standing")
    NORMALISATION: ClassVar[Normalisation] = THE_STUDYS

    @property
    def training_images(self) -> int:
        return 32

    def load(self) -> Split:
        return Split(self.images(32), self.images(self.val_size))

    def load_test(self) -> Images:
        return self.images(20)

    def images(self, count: int) -> Images:
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        return Images(pixels, np.arange(count) % 2, np.arange(count))
"""


def test_options_of_one_s_own_and_runs_of_different_data_sets(
    runs: list[Path],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A data set in a directory of somebody's own, with its class: trained on, named, read."""
    mine = tmp_path / "mine"
    (mine / "data").mkdir(parents=True)
    (mine / "striped.py").write_text(STRIPES)
    schema = "defaults:\n  - /hydra/schema/data/stripes@_here_\nsplit_seed: 0\nval_size: 20\n"
    (mine / "data" / "stripes.yaml").write_text(schema)
    tiny = [each for each in TINY if not each.startswith("data")]
    chosen = ["data=stripes", *tiny, "trainer.progress=quiet", f"output_root={tmp_path}"]
    with pytest.raises(UserError, match="data=stripes is not an option"):
        compose(chosen)
    monkeypatch.setenv("RESNET_CIFAR_CONFIG_DIR", str(mine))
    run = train(compose(chosen))
    assert "stripes" in run.parent.name
    assert load_model(run).classes == ("lying", "standing")
    with monkeypatch.context() as without:
        without.delenv("RESNET_CIFAR_CONFIG_DIR")
        with pytest.raises(
            UserError, match=r"name=stripes is not known here; RESNET_CIFAR_CONFIG_D"
        ):
            load_model(run)
    outcome = call(capsys, runs[0], run, folder)
    assert outcome.code == 1
    assert f"{run} is of stripes, not of synthetic: only runs" in outcome.err
    # What it would mean to have the name of another option, or not to be importable.
    (mine / "second.py").write_text(STRIPES)
    moved = mine.rename(tmp_path / "moved")
    monkeypatch.setenv("RESNET_CIFAR_CONFIG_DIR", str(moved))
    with pytest.raises(UserError, match=r"striped.py can't be imported: another module has its"):
        compose(chosen)
    (moved / "striped.py").rename(moved / "third.py")
    with pytest.raises(UserError, match="another option of data is called stripes already"):
        compose(chosen)
    (moved / "first.py").write_text(f"import nothing_there\n{STRIPES}")
    broken = moved.rename(tmp_path / "broken")
    monkeypatch.setenv("RESNET_CIFAR_CONFIG_DIR", str(broken))
    with pytest.raises(UserError, match=r"first.py can't be imported: Mod.*nothing_there"):
        compose(chosen)
    monkeypatch.setenv("RESNET_CIFAR_CONFIG_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"RESNET_CIFAR_CONFIG_DIR=.*nowhere: must be a dir"):
        compose([])


def written(path: Path, image: Image.Image, **settings: Any) -> np.ndarray:
    """`image` through a file, as the network gets it."""
    image.save(path, **settings)
    return photos.read_photo(path).pixels


def test_every_kind_of_pixel(tmp_path: Path) -> None:
    png, jpg = tmp_path / "a.png", tmp_path / "a.jpg"
    values = np.arange(1024, dtype=np.uint8).reshape(32, 32)
    colours = np.stack([values, values[::-1], values.T], -1)
    np.testing.assert_array_equal(written(png, Image.fromarray(colours)), colours)
    grey = np.repeat(values[..., None], 3, -1)
    np.testing.assert_array_equal(written(png, Image.fromarray(values)), grey)
    deep = Image.fromarray(values.astype(np.uint16) * 257)  # 16 bits
    assert deep.mode == "I;16"
    np.testing.assert_array_equal(written(png, deep), grey)
    palette = Image.fromarray(values).convert("P")
    np.testing.assert_array_equal(written(png, palette), grey)
    bits = written(png, Image.fromarray(values > 127))
    np.testing.assert_array_equal(bits, np.where(grey > 127, 255, 0))
    # Half transparent black on white is grey; transparent is white, whatever lies below.
    alpha = np.zeros((32, 32, 4), np.uint8)
    alpha[:16, :, 3], alpha[16:, :, 0] = 128, 200
    half = written(png, Image.fromarray(alpha))
    assert half[0, 0].tolist() == [127, 127, 127]
    assert half[31, 0].tolist() == [255, 255, 255]
    transparent = written(png, Image.fromarray(values).convert("P"), transparency=7)
    assert transparent[0, 7].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(transparent[0, :7], grey[0, :7])
    la = Image.merge("LA", (Image.new("L", (32, 32), 10), Image.new("L", (32, 32), 0)))
    assert (written(png, la) == 255).all()
    ink = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    assert np.abs(written(jpg, ink).astype(int) - [255, 0, 0]).max() < 10
    assert np.abs(written(jpg, Image.new("L", (32, 32), 100)).astype(int) - 100).max() < 3


def test_the_centre_upright(tmp_path: Path) -> None:
    """The shorter side becomes 32 pixels, and the centre of the longer one is what is left."""
    wide = np.full((60, 200, 3), 255, np.uint8)
    wide[:, 70:130] = (10, 20, 30)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    seen = photos.read_photo(tmp_path / "wide.png")
    assert (seen.pixels[:, 1:-1] == (10, 20, 30)).all()
    assert (seen.width, seen.height) == (200, 60)
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "dot.png")
    assert (photos.read_photo(tmp_path / "dot.png").pixels == (1, 2, 3)).all()
    # Lying on its side: EXIF's orientation 6 turns it clockwise.
    left = np.zeros((32, 64, 3), np.uint8)
    left[:, :32] = 255
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(left).save(tmp_path / "side.jpg", exif=exif, quality=95)
    turned = photos.read_photo(tmp_path / "side.jpg")
    assert (turned.width, turned.height) == (32, 64)
    assert turned.pixels[2].mean() > 240
    assert turned.pixels[-3].mean() < 15


def test_damaged_files_are_named(tmp_path: Path) -> None:
    def reason(name: str, content: bytes | None = None) -> str:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            photos.read_photo(tmp_path / name)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        tmp_path / "whole.png"
    )
    whole = (tmp_path / "whole.png").read_bytes()
    assert "cut.png can't be read" in reason("cut.png", whole[: len(whole) // 2])
    assert "is not a PNG, JPEG, WebP or BMP file" in reason("empty.png", b"")
    Image.new("RGB", (9, 9)).save(tmp_path / "film.gif")
    assert "is not a PNG, JPEG, WebP or BMP file" in reason(
        "film.png", (tmp_path / "film.gif").read_bytes()
    )
    assert "gone.png is not there" in reason("gone.png")
    (tmp_path / "folder.png").mkdir()
    assert "folder.png can't be read" in reason("folder.png")
    # A header that promises a hundred gigabytes.
    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = whole[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert "DecompressionBomb" in reason("bomb.png", bomb + whole[33:])
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        assert "a pipe" in reason("pipe.png")  # and not waited for
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", 3_000_000_000)
    assert "huge.png has 3,000,000,000 bytes; 268,435,456 are the most" in reason("huge.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "whole.png")
    assert photos.read_photo(tmp_path / "link.png").width == 64


def test_pictures_of_other_kinds_are_classified_or_named(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing that looks like a picture is passed over without a word."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    for ending in photos.SUFFIXES:
        kind = {".png": "png", ".webp": "webp", ".bmp": "bmp", ".dib": "bmp"}.get(ending, "jpeg")
        image.save(tmp_path / f"a{ending.upper() if ending == '.bmp' else ending}", kind)
    for ending in photos.OTHERS:
        (tmp_path / f"b{ending}").write_bytes(b"whatever")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.gif").write_text("hidden")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "c.gif").write_text("hidden")
    outcome = call(capsys, runs[0], tmp_path, "--json")
    assert outcome.code == 1
    said = json.loads(outcome.out)
    assert len(said["images"]) == len(photos.SUFFIXES) >= 8
    assert said["left_out"].keys() == {f"{tmp_path}/b{ending}" for ending in photos.OTHERS}
    assert outcome.err.count("\n") == len(photos.OTHERS)
    assert (
        f"error: {tmp_path}/b.gif is not a PNG, JPEG, WebP or BMP file: convert it" in outcome.err
    )
    # The same picture, from files without loss.
    chances = {Path(each["image"]).suffix.lower(): each["probability"] for each in said["images"]}
    assert chances[".png"] == chances[".bmp"] == chances[".dib"]


def test_a_folder_that_cannot_be_looked_at_is_named(
    runs: list[Path],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("open", "shut"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        shutil.copy(folder / "000.png", tmp_path / "photos" / name)
    (tmp_path / "photos" / "linked").symlink_to(folder)
    original = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    outcome = call(capsys, runs[0], tmp_path / "photos", "--json")
    assert outcome.code == 1
    said = json.loads(outcome.out)
    assert [each["image"] for each in said["images"]] == [f"{tmp_path}/photos/open/000.png"]
    assert [Path(path).name for path in said["left_out"]] == ["linked", "shut"]
    assert "Permission denied" in outcome.err


def test_a_seed_that_cannot_be_used_is_named(
    runs: list[Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a cell the others answer; what is asked for by name has to be there."""
    cell = Path(shutil.copytree(runs[0].parent, tmp_path / runs[0].parent.name))
    third = Path(shutil.copytree(cell / "seed=1", cell / "seed=3"))
    for name, action in {
        "another's": lambda: None,
        "no JSON": lambda: (third / "run.json").write_text("{"),
        "a pipe": lambda: ((third / "run.json").unlink(), os.mkfifo(third / "run.json")),
        "no record": lambda: (third / "run.json").unlink(),
    }.items():
        action()
        outcome = call(capsys, cell, folder / "000.png", "--json")
        assert outcome.code == 1, name
        said = json.loads(outcome.out)
        assert [Path(run["run"]).name for run in said["runs"]] == ["seed=0", "seed=1"]
        assert list(said["left_out"]) == [str(third)], name
        assert outcome.err.count("\n") == 1
    shutil.rmtree(third)
    (cell / "seed=1" / "last.pt").unlink()
    outcome = call(capsys, cell, folder / "000.png", "--json")
    assert outcome.code == 1
    assert "seed=1 has no last.pt" in outcome.err
    assert [Path(run["run"]).name for run in json.loads(outcome.out)["runs"]] == ["seed=0"]
    for given in ([cell, cell / "seed=1"], [cell / "seed=1"]):
        outcome = call(capsys, *given, folder / "000.png")
        assert (outcome.code, outcome.out) == (1, "")
    (cell / "seed=0" / "last.pt").unlink()
    outcome = call(capsys, cell, folder / "000.png")
    assert (outcome.code, outcome.out) == (1, "")
    assert "seed=0 has no last.pt" in outcome.err
    assert outcome.err.count("\n") == 1
