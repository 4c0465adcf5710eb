"""What ``verify`` looks for in images: every file is read to its end, by the rules that training reads by."""

import os
import shlex
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..engine.contents import copies, file_stats
from ..engine.decoding import BeyondLimit, Unreadable, decode, opened
from ..engine.delimited import open_table
from ..engine.folders import list_images
from ..engine.image_files import ImageFiles
from ..engine.looks import check_colours, look, settled
from ..engine.mistakes import Mistake, Mistakes, RunFailed, some
from ..engine.splits import Samples
from ._findings import Findings, Kind, in_line, without_rows, wrapped
from ._near_copies import SIDE, SMALLEST, difference_hash, near_copies

UNREADABLE = Kind("error", "unreadable", "fit ends at the first of them")
NOT_ALLOWED = Kind("error", "not allowed to be read", "fit ends at the first of them; give yourself the right")
NOT_NOW = Kind("error", "not read", "the machine's fault, not theirs: mend that, and run verify again")
BEYOND = Kind("error", "beyond a limit", "fit ends at the first of them; raise the limit, or convert them")
SUFFIX = Kind("warning", "wrong suffix", "read by its content here, perhaps not elsewhere")
DEPTH = Kind("warning", "another depth", "its greys may come out darker or brighter than others")
MODE = Kind("note", "odd mode", "converted when it is read")
ALPHA = Kind("note", "transparent parts", "they turn --data.background")
PAGES = Kind("warning", "several pages", "only the first is read")
TURNED = Kind("note", "turned by EXIF", "read upright here, perhaps not elsewhere")
ONE_COLOUR = Kind("warning", "one colour", "there is nothing to see")
NARROW = Kind("warning", "narrow range", "there is little to see")
SIZE = Kind("warning", "odd size", "far from the others: perhaps no image of this set")
COPIES = Kind("warning", "exact copies", "each counts as often as it is there")
NEAR = Kind("note", "near-copies", "they look alike: frames of one film, one thing photographed twice?")
NEAR_SPLITS = Kind("warning", "near-copies across splits", "scores may be too good; --data.group_pattern parts them")
NEAR_LABELS = Kind("warning", "near-copies, two labels", "one of the labels may be wrong")
NO_ROW = Kind("note", "left out", "no row of the table names them, so fit does not see them")

PORTION = 32  # images that a thread reads at a time
FEW_LEVELS, NARROW_LEVELS = 2, 16  # of 256 between the darkest and the brightest
FAR = 8.0  # times larger or smaller than the median, by a side
LONG = 8.0  # times longer than wide
ALIASES = {"MPO": "JPEG", "DIB": "BMP"}
PLAIN = ("1", "L", "RGB")
ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


class Checks:
    """Reads the images of a data set.

    Args:
        data: The data module.
        found: Takes what is found.
    """

    of_list = "files"
    last = 0  # the number of the last row of a table of labels

    def __init__(self, data: Any, found: Findings) -> None:
        if not isinstance(data, ImageFiles):
            raise Mistake(f"{type(data).__name__} holds no image files, which is what verify reads here.")
        self.data, self.found = data, found
        self.keys: list[str] = []
        self.same: list[list[int]] = []
        self.rows: list[int] = []  # of a table of labels: the number of each image's row

    @property
    def place(self) -> str:
        """The data, as they were named."""
        return str(self.data.root)

    def holds(self, file: Path) -> bool:
        """Tell whether a file lies among the data, or is their table."""
        is_table = self.data.labels is not None and file == Path(os.path.realpath(self.data.labels.labels))
        return is_table or file.is_relative_to(os.path.realpath(self.data.root))

    def name(self, i: int) -> str:
        """Return the path of an image."""
        return os.path.join(self.data.root, self.keys[i])

    def removable(self, i: int) -> str:
        """Return what to take away: the file, or its row in the table of labels; nothing if that is not known."""
        if self.data.labels is None:
            path = self.name(i)
            # Without it the links to it would lead nowhere.
            return "" if not os.path.islink(path) and os.path.realpath(path) in self.led_to else path
        return str(self.rows[i]) if self.rows else ""

    def command(self, file: Path, is_odd: bool) -> str:
        """Return the command that removes what a list holds."""
        if self.data.labels is not None:
            return without_rows(file, Path(self.data.labels.labels), self.last)
        listed = shlex.quote(str(file))
        return f"xargs -0 rm -- < {listed}" if is_odd else f"tr '\\n' '\\0' < {listed} | xargs -0 rm --"

    def read(self) -> Samples | None:
        """List the images and read all of them; returns None where fit would refuse the list."""
        data, samples = self.data, None
        try:
            data.find_root()
            samples = data.samples()
            self.keys = samples.keys
            if data.labels is not None:
                self._find_rows(Path(data.labels.labels))
        except Mistake as mistake:
            self.keys = self._all_images()
            if not self.keys and not isinstance(mistake, Mistakes):  # nothing is known
                raise
            self.found.add_refusal(mistake, self.place)
            if data.labels is not None:
                self._find_rows(Path(data.labels.labels), of_keys=False)
        self._read_files()
        return samples

    def _all_images(self) -> list[str]:
        """List what images there are, where it is not known what they are of."""
        try:
            return list_images(self.data.root).paths if self.data.root.is_dir() else []
        except Mistake:
            return []

    def _find_rows(self, table: Path, of_keys: bool = True) -> None:
        """Number the rows of a table of labels, and say which images no row names."""
        numbers: list[int] = []
        for chunk in open_table("--data.labels", table).chunks():
            numbers += chunk.numbers
            self.last = max([self.last, *chunk.numbers[-1:], *(number for number, _ in chunk.wrong)])
        self.of_list = f"rows of {in_line(str(table))}"
        if not of_keys:
            rows = (each.where.removeprefix("row ") for each in self.found.found if each.where.startswith("row "))
            self.found.to_remove += rows
            return
        self.rows = numbers
        unnamed = sorted(set(self._all_images()) - set(self.keys))
        if unnamed:
            self.found.add(NO_ROW, self.place, f"{len(unnamed):,} images: {some(unnamed)}")

    def _read_files(self) -> None:
        count = len(self.keys)
        self.size_N2 = np.zeros((count, 2), np.int32)
        self.modes: list[str] = [""] * count
        self.is_read = np.zeros(count, bool)
        places = Counter(os.path.realpath(self.name(i)) for i in range(count))
        self.led_to = {place for place, number in places.items() if number > 1}
        self.hash_N, self.has_hash = np.zeros(count, np.uint64), np.zeros(count, bool)
        self.limits = self._value_range()
        pool = ThreadPoolExecutor(os.cpu_count())  # Pillow decodes without holding Python's lock
        problems: list[tuple[int, Kind, str]] = []
        try:
            with tqdm(desc="verify", total=count, unit=" images", disable=not sys.stderr.isatty(), leave=False) as bar:
                for found in pool.map(self._read_portion, range(0, count, PORTION)):
                    problems += found
                    bar.update(min(PORTION, count - bar.n))
        finally:
            pool.shutdown(cancel_futures=True)
        for i, kind, detail in problems:
            self.found.add(kind, self.name(i), detail)
            if kind is UNREADABLE:
                self.found.to_remove.append(self.removable(i))
        self._compare_modes()
        self._compare_sizes()
        whole = np.flatnonzero(self.is_read)
        keys = [self.keys[i] for i in whole]
        found_same = copies(self.data.root, keys, file_stats(self.data.root, keys)) if keys else []
        self.same = [whole[group].tolist() for group in found_same]

    def _value_range(self) -> tuple[float, float]:
        """Settle the values that become black and white, as fit does, by a look at some images."""
        picked = np.unique(np.linspace(0, len(self.keys) - 1, 32).astype(int)) if self.keys else []
        looks = []
        for i in picked:
            try:
                looks.append(look(self.name(i), self.data.max_megapixels))
            except (Mistake, RunFailed):  # which is found when it is read
                continue
        if not looks:
            return self.data.value_range or (0, 255)
        try:
            check_colours(looks)
        except Mistake as mistake:
            self.found.add_refusal(mistake, self.place)
        return settled(looks, None, None, self.data.value_range)[2]

    def _read_portion(self, first: int) -> list[tuple[int, Kind, str]]:
        found = []
        for i in range(first, min(first + PORTION, len(self.keys))):
            path = self.name(i)
            try:
                found += [(i, kind, detail) for kind, detail in self._read_header(i, path)]
                pixels = self._pixels(path)
            except Unreadable as error:
                kind = BEYOND if isinstance(error, BeyondLimit) else UNREADABLE
                cause = error.__cause__
                if isinstance(cause, PermissionError):
                    kind = NOT_ALLOWED
                elif isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno):
                    kind = NOT_NOW  # what Pillow says of a file that is cut short has no number
                found.append((i, kind, str(error).removeprefix(f"{path} ")))
                continue
            self.is_read[i] = True
            found += [(i, kind, detail) for kind, detail in self._judge(i, pixels)]
        return found

    def _pixels(self, path: str) -> np.ndarray:
        """Read an image as training does, into a square of a size that tells what is on it, (64, 64, 3)."""
        data = self.data
        return decode(path, 3, SIDE, "stretch", data.background, self.limits, max_megapixels=data.max_megapixels)

    def _read_header(self, i: int, path: str) -> list[tuple[Kind, str]]:
        """Note size and mode, and return what is odd of the format."""
        found = []
        with opened(path, self.data.max_megapixels) as image:
            self.size_N2[i] = image.size
            self.modes[i] = image.mode
            suffix = os.path.splitext(path)[1].casefold()
            called = Image.registered_extensions().get(suffix)
            format = ALIASES.get(str(image.format), str(image.format))
            if called is not None and ALIASES.get(called, called) != format:
                found.append((SUFFIX, f"is {format} and called {suffix}"))
            if image.has_transparency_data:
                found.append((ALPHA, f"mode {image.mode}, of {format}"))
            if (pages := getattr(image, "n_frames", 1)) > 1:
                found.append((PAGES, f"{pages} pages"))
            # Of a PNG getexif would read all pixels, unless it has an EXIF before them.
            may_be_turned = image.format != "PNG" or "exif" in image.info
            if may_be_turned and (orientation := image.getexif().get(0x0112, 1)) != 1:
                found.append((TURNED, f"orientation {orientation}"))
        return found

    def _judge(self, i: int, pixels_HWC: np.ndarray) -> list[tuple[Kind, str]]:
        """Hash an image, and say what is odd of its values."""
        low_C, high_C = pixels_HWC.min((0, 1)).astype(int), pixels_HWC.max((0, 1)).astype(int)
        if (high_C - low_C).max() <= FEW_LEVELS:
            return [(ONE_COLOUR, f"of 0 to 255 all are about {', '.join(map(str, dict.fromkeys(high_C.tolist())))}")]
        if min(self.size_N2[i]) >= SMALLEST and (number := difference_hash(pixels_HWC.mean(2))) is not None:
            self.hash_N[i], self.has_hash[i] = number, True
        if high_C.max() - low_C.min() < NARROW_LEVELS:
            return [(NARROW, f"from {low_C.min()} to {high_C.max()} of 0 to 255")]
        return []

    def _compare_modes(self) -> None:
        """Find images of a mode that most others do not have."""
        counts = Counter(mode for mode, is_read in zip(self.modes, self.is_read, strict=True) if is_read)
        odd = {mode for mode in counts if mode not in PLAIN and mode not in ALPHA_MODES}
        whole = {mode for mode in odd if 2 * counts[mode] > counts.total()}  # it is that of the set
        deep_usual = any(mode[0] in "IF" for mode in whole)
        for mode in whole:
            what = f"{counts[mode]:,} images are of mode {mode}"
            if mode[0] in "IF":
                what += f": values from {self.limits[0]:g} to {self.limits[1]:g} become black to white"
            self.found.add(MODE, self.place, what)
        most = counts.most_common(1)[0][0] if counts else ""
        for i in np.flatnonzero(self.is_read).tolist():
            mode = self.modes[i]
            is_deep_mode = mode[0] in "IF"
            if mode in odd - whole or (deep_usual and not is_deep_mode):
                kind = DEPTH if is_deep_mode != deep_usual else MODE
                self.found.add(kind, self.name(i), f"mode {mode}, most others are {most}")

    def _compare_sizes(self) -> None:
        """Find images that are far larger, smaller or longer than others."""
        whole = np.flatnonzero(self.is_read)
        if len(whole) < 2:
            return
        log_N2 = np.log2(self.size_N2[whole])
        median_2 = np.median(log_N2, axis=0)
        spread_2 = np.median(np.abs(log_N2 - median_2), axis=0)
        is_far = (np.abs(log_N2 - median_2) > np.maximum(np.log2(FAR), 6 * 1.4826 * spread_2)).any(1)
        length_N = np.abs(log_N2[:, 0] - log_N2[:, 1])
        is_long = length_N > np.log2(LONG) + np.median(length_N)
        usual = " × ".join(f"{2**side:.0f}" for side in median_2)
        for i in whole[is_far | is_long].tolist():
            self.found.add(SIZE, self.name(i), f"{self.size_N2[i][0]} × {self.size_N2[i][1]}, the median is {usual}")

    def compare(self, samples: Samples, split_of: dict[str, str]) -> None:
        """Find images that look alike."""
        copied = {i for group in self.same for i in group[1:]}
        chosen = [i for i in np.flatnonzero(self.has_hash).tolist() if i not in copied]

        @lru_cache(maxsize=4096)
        def grey(position: int) -> np.ndarray | None:
            try:
                return self._pixels(self.name(chosen[position])).mean(2)
            except Unreadable:  # since
                return None

        for group in near_copies(self.hash_N[chosen], grey):
            first, *others = (chosen[position] for position in group)
            for i in others:
                splits = [split_of.get(self.keys[j], "") for j in (first, i)]
                kind, detail = NEAR, ""
                if np.any(samples.targets[i] != samples.targets[first]) and samples.target.is_exclusive:
                    told = ["; ".join(samples.target.told(samples.targets[j])) for j in (i, first)]
                    kind, detail = NEAR_LABELS, " and ".join(told)
                elif all(splits) and splits[0] != splits[1]:
                    kind, detail = NEAR_SPLITS, f"in {splits[1]} and in {splits[0]}"
                self.found.add(kind, self.name(i), detail, self.name(first))

    def summary(self) -> str:
        """Say what was read."""
        small = int((self.is_read & (self.size_N2.min(1, initial=2**30) < SMALLEST)).sum())
        said = wrapped(f"verify: {len(self.keys):,} images in {in_line(self.place)}, each read to its end")
        if small:
            said += f"\n{small:,} of them are smaller than {SMALLEST} pixels: no near-copies are looked for among these"
        return said
