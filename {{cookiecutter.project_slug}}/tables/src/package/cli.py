"""What the command line is made of. Another model, data set or set of callbacks is named here."""

from .callbacks import Callbacks
from .data import TableData
from .engine.commands import Commands
from .model import Classifier, Regressor, Tagger


class CLI(Commands):
    """``fit``, ``validate``, ``test`` and ``predict``; the tools build on it."""

    tasks = {"multiclass": Classifier, "multilabel": Tagger, "regression": Regressor}
    data_module = TableData
    callback_options = Callbacks
    # Packages of yours whose classes a run's config or a checkpoint may name, such as ("mylib",).
    trusted = ()
