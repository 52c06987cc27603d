"""Who gets into a running training, what an upload takes along, and what damaged films do.

In: nothing; real films from HILUM_TEST_DATA where there are any. Out: a table for each of sockets, packed files and
mutated films; with --check, exit code 1 where something is not as the documentation states it.
"""

import argparse
import contextlib
import io
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from models.data.dicom import is_dicom
from models.data.images import decode
from orchestrator.code_package import survey
from orchestrator.formatting import aligned
from orchestrator.training import socket_probe
from pathologies.errors import InputError

PROJECT = Path(__file__).resolve().parent.parent
START_SECONDS = 180
SECTIONS = ("sockets", "packed", "files")
Table = tuple[tuple[str, ...], list[list[str]]]


# -- sockets: a small training of the command line's own, and clients that do not belong to it


@contextlib.contextmanager
def training(folder: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """(the driver of `hilum train`, its training process), at work until the block ends; its output is `folder/log`."""
    from tests.small_data import make_dataset
    from tests.small_run import SETTINGS

    make_dataset(folder / "dataset")
    words = [sys.executable, "-m", "orchestrator.cli", "train", str(folder / "dataset"), "--out", str(folder / "run")]
    words += ["--from-scratch", "--folds", "1"]
    words += [word for name, value in (SETTINGS | {"epochs": 100_000}).items() for word in ("--set", f"{name}={value}")]
    alone = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONHASHSEED")}
    with (folder / "log").open("w", encoding="utf-8") as log:
        driver = subprocess.Popen(words, cwd=PROJECT, env=alone, stdout=log, stderr=log)
    try:
        yield driver, _worker(driver, folder / "log")
    finally:
        driver.kill()  # its Ray ends with it
        driver.wait()


def _worker(driver: subprocess.Popen, log: Path) -> int:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and driver.poll() is None:
        for one in socket_probe.listeners(socket_probe.process_tree(driver.pid)):
            if one.process.startswith("ray::pneumonia"):
                return one.pid
        time.sleep(0.1)
    raise RuntimeError(f"No training within {START_SECONDS} s:\n{log.read_text(encoding='utf-8')[-2000:]}")


def sockets() -> tuple[list[Table], list[str]]:
    networks = [address for address in socket_probe.network_addresses() if ":" not in address]
    with tempfile.TemporaryDirectory(prefix="hilum-reach-") as folder, training(Path(folder)) as (driver, _):
        found = socket_probe.listeners(socket_probe.process_tree(driver.pid))
        head = next((one.port for one in found if one.process == "gcs_server"), None)
        if head is None:
            return [], ["No head of a Ray listens below `hilum train`."]
        open_to = {one: [each for each in networks if socket_probe.takes_connections(each, one.port)] for one in found}
        tried = [(address, how) for address in ("127.0.0.1", *networks) for how in socket_probe.STRANGERS]
        with ThreadPoolExecutor() as pool:
            outcomes = list(pool.map(lambda one: socket_probe.try_client(f"{one[0]}:{head}", one[1]), tried))
    rows = [
        [one.process, str(one.pid), one.address, str(one.port), ", ".join(open_to[one]) or "refused"] for one in found
    ]
    clients = [[f"{address}:{head}", how, outcome] for (address, how), outcome in zip(tried, outcomes, strict=True)]
    problems = [f"{one.process} listens on {one.address}:{one.port}." for one in found if not one.on_loopback]
    problems += [f"{one.process} takes connections on {', '.join(each)}." for one, each in open_to.items() if each]
    problems += [
        f"A client {how} at {address}: {outcome}."
        for (address, how), outcome in zip(tried, outcomes, strict=True)
        if outcome
        not in (
            (socket_probe.REFUSED,) if address == "127.0.0.1" else (socket_probe.REFUSED, socket_probe.NO_CONNECTION)
        )
    ]
    if not networks:
        print("This machine has no network address: only loopback was tried.")
    listening = (("process", "pid", "address", "port", "TCP from the network"), rows)
    return [listening, (("Ray client at", "", "outcome"), clients)], problems


# -- packed files: what `hilum submit` would send from a working folder that is in use

PLANTED = (
    "predictions.csv", "predictions.rejected.csv", "x-test/patient0001.png", "x-test/labels.csv", "labels.csv",
    "Data_Entry_2017.csv", ".env", "id_rsa", "notes.ipynb", "orchestrator/.env", "models/labels.csv",
    "pathologies/x-test/patient0002.png",
)  # fmt: skip
NOT_COPIED = (".git", ".venv", "data", "runs", "bundles", "demo", "build", "dist", "node_modules", "__pycache__")


def packed() -> tuple[list[Table], list[str]]:
    with tempfile.TemporaryDirectory(prefix="hilum-packed-") as folder:
        root = Path(folder) / "checkout"
        shutil.copytree(PROJECT, root, ignore=shutil.ignore_patterns(*NOT_COPIED, "*.pyc"), symlinks=True)
        for name in PLANTED:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("patient0001,pneumonia\n", encoding="utf-8")
        files = survey(root).files
        sizes = {name: (root / name).stat().st_size for name in files}
    return judge_packed(files, sizes)


def judge_packed(files: tuple[str, ...], sizes: dict[str, int]) -> tuple[list[Table], list[str]]:
    tops: dict[str, list[int]] = {}
    for name in files:
        tops.setdefault(name.partition("/")[0], []).append(sizes[name])
    rows = [[top, str(len(each)), f"{sum(each) / 1024:.0f}"] for top, each in sorted(tops.items())]
    planted = [[name, "SENT" if name in files else "stays"] for name in PLANTED]
    problems = [f"{name} would be sent." for name in PLANTED if name in files]
    if "orchestrator/cli/app.py" not in files:
        problems.append("The code itself would not be sent.")
    return [(("sent", "files", "KiB"), rows), (("planted", ""), planted)], problems


# -- files: bytes of any kind are an image or a sentence


@dataclass(frozen=True, kw_only=True)
class Original:
    name: str
    data: bytes


def generated() -> list[Original]:
    """Small films in each container, with what makes a decoder look further: palettes, LUTs, compressed pixels."""
    rows, columns = np.mgrid[0:48, 0:64]
    grey = np.rint(5 + 245 * (0.7 * columns / 63 + 0.3 * rows / 47)).astype(np.uint8)
    film = Image.fromarray(grey)
    pictures = {
        "PNG, 8 bits": (film, "PNG", {}),
        "PNG, 16 bits": (Image.fromarray(grey.astype(np.uint16) * 200), "PNG", {}),
        "PNG, palette": (film.convert("P"), "PNG", {}),
        "JPEG": (film, "JPEG", {}),
        "JPEG, progressive colour": (film.convert("RGB"), "JPEG", {"progressive": True}),
    }
    found = []
    for name, (image, kind, options) in pictures.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found.append(Original(name=name, data=buffer.getvalue()))
    stored = grey.astype(np.uint16) * 16
    window = {"WindowCenter": 2048, "WindowWidth": 1024}
    return [
        *found,
        Original(name="DICOM, window", data=dicom(stored, **window)),
        Original(name="DICOM, inverted, rescaled", data=dicom(stored, PhotometricInterpretation="MONOCHROME1",
                 RescaleSlope=2, RescaleIntercept=-1024, PixelPaddingValue=0)),
        Original(name="DICOM, VOI LUT", data=dicom(stored, VOILUTSequence=_curve())),
        Original(name="DICOM, RLE", data=dicom(stored, compressed=True)),
    ]  # fmt: skip


def dicom(stored: np.ndarray, compressed: bool = False, **elements: object) -> bytes:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Modality, dataset.PatientID = "DX", "p1"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = stored.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    if compressed:
        dataset.compress(RLELossless)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _curve() -> list:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.LUTDescriptor = [4096, 0, 16]
    item.LUTData = (np.arange(4096) ** 2 // 4096).astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    return [item]


def real(count: int = 2) -> list[Original]:
    """Films of real patients as they were published, and one smaller in the other containers; none without data."""
    folder = Path(os.environ.get("HILUM_TEST_DATA", PROJECT.parent / "shared" / "data"))
    films = sorted((folder / "nih-sample" / "images").glob("*.png"))[:count]
    files = [*films, *sorted((folder / "hannover").rglob("*.jpg"))[:1]]
    found = [Original(name=f"real {path.suffix[1:].upper()}", data=path.read_bytes()) for path in files]
    for path in films[:1]:
        buffer, small = io.BytesIO(), Image.open(path).convert("L").resize((256, 256))
        small.save(buffer, "JPEG")
        found.append(Original(name="real JPEG, smaller", data=buffer.getvalue()))
        stored = np.asarray(small).astype(np.uint16) * 16
        found.append(Original(name="real DICOM, smaller", data=dicom(stored, WindowCenter=2048, WindowWidth=4096)))
    return found


HEADER_BYTES = 1024


def mutated(data: bytes, draws: np.random.Generator) -> tuple[str, bytes]:
    """(what was done, the bytes): header bytes changed, the end cut off, or bytes put in."""
    kind = ("header", "cut", "insertion")[int(draws.choice(3, p=[0.6, 0.2, 0.2]))]
    changed = bytearray(data)
    header = min(len(data), HEADER_BYTES)
    if kind == "cut":
        return kind, data[: int(draws.integers(len(data)))]
    if kind == "insertion":
        place = int(draws.integers(header if draws.random() < 0.5 else len(data)))
        return kind, data[:place] + draws.bytes(int(draws.integers(1, 17))) + data[place:]
    first = 132 if is_dicom(data) and draws.random() < 0.9 else 0  # the preamble before it is 128 bytes of nothing
    for _ in range(int(draws.integers(1, 9))):
        changed[int(draws.integers(first, header))] = int(draws.integers(256))
    return kind, bytes(changed)


def answer(data: bytes, folder: Path, decoder: Callable = decode) -> str:
    """ "array", "sentence", or how it escaped. A DICOM file is recognised by its name where its mark is lost."""
    try:
        if is_dicom(data) or not data.startswith(bytes(128)):
            image = decoder(data)
        else:
            path = folder / "film.dcm"
            path.write_bytes(data)
            image = decoder(path)
    except InputError as error:
        return "sentence" if str(error).strip() else "an InputError without a sentence"
    except Exception as error:  # whatever it is: that is the question
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(place.filename).name}: {str(error)[:80]}"
    fine = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 2
    return "array" if fine else f"no film: {type(image).__name__}"


def mutate(count: int, seed: int, decoder: Callable = decode, originals: list[Original] | None = None) -> Table:
    """Rows of (original, array, sentence, escaped, an example); an original is as likely as its bytes are quick."""
    originals = originals or [*generated(), *generated(), *real()]  # the large ones cost a hundred times as much
    counts: dict[str, Counter] = {one.name: Counter() for one in originals}
    with quiet(), tempfile.TemporaryDirectory(prefix="hilum-mutated-") as folder:
        for number in range(count):
            draws = np.random.default_rng([seed, number])
            original = originals[number % len(originals)]
            kind, data = mutated(original.data, draws)
            told = answer(data, Path(folder), decoder)
            counts[original.name][told if told in ("array", "sentence") else f"{kind} {number}: {told}"] += 1
    rows = []
    for name, of in counts.items():
        escaped = [told for told in of if told not in ("array", "sentence")]
        rows.append([name, str(of["array"]), str(of["sentence"]), str(len(escaped)), escaped[0] if escaped else ""])
    return ("film", "array", "sentence", "escaped", "the first"), rows


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Damaged files make libraries talk: what counts here is the answer alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def through_predict(count: int, seed: int) -> tuple[Table, list[str]]:
    """As many mutated files beside a good film, through `predict` on a small bundle."""
    from orchestrator.inference.predict import PredictRequest, predict
    from tests.small_run import make_house

    originals = generated()
    with quiet(), tempfile.TemporaryDirectory(prefix="hilum-mutated-") as folder:
        house, films = make_house(Path(folder) / "house"), Path(folder) / "films"
        films.mkdir()
        (films / "good.png").write_bytes(originals[0].data)
        for number in range(count):
            original = originals[number % len(originals)]
            suffix = {"PNG": ".png", "JPE": ".jpg", "DIC": ".dcm"}[original.name[:3]]
            data = mutated(original.data, np.random.default_rng([seed, number, 1]))[1]
            (films / f"{number:05d}{suffix}").write_bytes(data)
        request = PredictRequest(bundle=house / "bundle", inputs=(str(films),), out=Path(folder) / "predictions.csv")
        try:
            result = predict(request)
        except Exception as error:  # whatever it is: that is the question
            return (("predict", ""), [["ended", repr(error)[:100]]]), [f"predict ended with {error!r}."]
    paths, refused = list(result.predictions["path"]), list(result.rejected["path"])
    rows = [["files", str(count + 1)], ["with an answer", str(len(paths))], ["with a reason", str(len(refused))]]
    return (("predict", ""), rows), judge_predict(count, paths, refused, list(result.rejected["reason"]))


def judge_predict(count: int, paths: list[str], refused: list[str], reasons: list[str]) -> list[str]:
    problems = [] if any(path.endswith("good.png") for path in paths) else ["The good film has no answer."]
    if len(paths) + len(refused) != count + 1:
        problems.append(f"{count + 1} files, {len(paths)} answers and {len(refused)} reasons.")
    return problems + ["A file was refused without a reason."] * any(not reason.strip() for reason in reasons)


def files(count: int, predicted: int, seed: int) -> tuple[list[Table], list[str]]:
    if not real():
        print("No real films (set HILUM_TEST_DATA): the generated ones alone.")
    table = mutate(count, seed)
    problems = [f"{row[0]}: {row[3]} escaped, the first: {row[4]}." for row in table[1] if row[3] != "0"]
    shown, more = through_predict(predicted, seed)
    return [table, shown], problems + more


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.attack_surface", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=SECTIONS, help="some of the sections")
    parser.add_argument("--mutations", type=int, default=10_000, help="of films, for the decoder (default 10,000)")
    parser.add_argument("--predicted", type=int, default=300, help="of them, for predict (default 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="exit 1 when something is not as stated")
    options = parser.parse_args(words)
    steps = {"sockets": sockets, "packed": packed,
             "files": lambda: files(options.mutations, options.predicted, options.seed)}  # fmt: skip
    problems = []
    for name in options.only:
        tables, found = steps[name]()
        print(f"\n{name}\n")
        print("\n\n".join(aligned(titles, rows) for titles, rows in tables))
        problems += found
    print("\n" + ("\n".join(problems) or "All as stated."))
    return int(bool(problems) and options.check)


if __name__ == "__main__":
    sys.exit(main())
