"""The data: which samples there are, and which view of one the network gets. engine/image_files.py reads the files,
engine/loading.py splits and batches the samples.

Labels come from folders, or from a table (--data.labels). To take them from elsewhere, change ``samples``; the rest
does not know where they came from. A database, for example, of paths below the root and classes::

    rows = sqlite3.connect("images.db").execute("SELECT path, name FROM images").fetchall()
    return Samples.labelled([path for path, _ in rows], [name for _, name in rows])

Several labels or numbers are ``Samples(keys, targets, Labels(names))`` or ``Numbers(names)``, with --data.task.
"""

from typing import Any

from .augment import Augment, check_name
from .engine.folders import Layout, find
from .engine.image_files import ImageFiles
from .engine.splits import Samples


class ImageData(ImageFiles):
    """Images of a folder as seeded, split and augmented batches.

    Args:
        root: The folder: ROOT/CLASS/IMAGE or ROOT/{train,val,test}/CLASS/IMAGE; or digits or cifar10, which are written
            to data/ first.
        layout: Whether the folders in it are classes or splits; auto sees it, where there is one way to see it.
        augment: The pipeline of the training images, see augment.py.
        flip: Whether a mirror image keeps its label; never for digits and letters.
        options: What every data module of images takes, see engine/image_files.py and engine/loading.py.
    """

    def __init__(
        self,
        root: str = "data/images",
        layout: Layout = "auto",
        augment: str = "light",
        flip: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(root=root, **options)
        check_name(augment)
        self.layout: Layout = layout
        self.augment, self.flip = augment, flip

    def samples(self) -> Samples:
        """List the images and their targets: as the table says, or by the folders that they lie in."""
        if self.labels is not None:
            return self.of_table()
        return find(self.root, self.layout, self.allow_conflicts)

    def make_view(self, size: int) -> Augment:
        """Make what turns a decoded image into the network's input, a square of this side."""
        return Augment(self.augment, size, self.flip)
