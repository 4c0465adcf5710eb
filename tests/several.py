"""Runs commands of a project in one process, one after the other: several.py FILE.json.

Saves the seconds that each process takes to import a project. After the output of each stands ``ENDED CODE``.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path

commands = json.loads(Path(sys.argv[1]).read_text())
package = next(path.parent.name for path in Path(sys.path[0]).glob("*/__main__.py"))
environment = dict(os.environ)
for args in commands:
    sys.argv = [package, *args]
    code = 0
    try:
        runpy.run_module(package, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # as an interpreter ends
        traceback.print_exc()
        code = 1
    os.environ.clear()
    os.environ.update(environment)  # fit leaves the seed and the folder of its run there, for ranks of its own
    sys.stdout.flush()
    print(f"\nENDED {code}", file=sys.stderr, flush=True)
