"""``python -m PACKAGE COMMAND``: runs a command of Lightning's or a tool, and turns its end into an exit code."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from .engine import signals
from .engine.output import begin_in_utf8, outlive_output

# What is heavy is imported in main, so that --help answers at once.

HELP = """usage: python -m {package} COMMAND [FLAG ...]

  fit        train, into a folder runs/NAME/version_N; --resume auto goes on with a run that was killed
  validate   score a run's best checkpoint on the validation split
  test       score it on the test split, which nothing else reads
  predict    write what is predicted of new data; predict --help says how it is named
{tools}
  schema     write what an editor completes and checks configs by
  completion print what a shell completes all this by: completion bash

COMMAND --help lists its flags. --config NAME lays a preset, a recipe or a file over the defaults, below
all flags."""


def tools() -> dict[str, str]:
    """Return the commands of ``tools/`` and what each does: the first line of its file."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("tools/[a-z]*.py")):
        with path.open(encoding="utf-8") as file:
            found[path.stem.replace("_", "-")] = file.readline().strip('".\n').partition(": ")[2]
    return found


def tool(name: str) -> Any:
    """Import a tool."""
    return importlib.import_module(f".tools.{name.replace('-', '_')}", __package__)


def report(cli: Any) -> None:
    """Write the page of a run that has ended, or say how; whatever goes wrong with it, the run is a success."""
    if not cli.own.report or "report" not in tools() or cli.lock is None or not cli.run.ended:
        return
    from .engine.installing import of_extra

    command = f"python -m {__package__} report {cli.run}"
    absent = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if absent or cli.trainer.world_size > 1:  # the other ranks would wait for this one
        needs = f" (needs {' and '.join(absent)}: {of_extra('report')})" if absent else ""
        print(f"report:        {command}{needs}")
        return
    try:
        signals.check()
        tool("report").main([str(cli.run)])
    except (Exception, SystemExit, signals.Stopped) as error:
        reason = " ".join(f"{error!r}".split())[:200]
        print(f"report:        not written, {reason}; the run is whole, and this says more: {command}")


def run(args: list[str]) -> None:
    """Run a command."""
    from .cli import CLI
    from .engine import remote
    from .engine.configs import below_flags
    from .engine.renames import command_of_today, say_new_names

    args, given = command_of_today(args), args
    say_new_names(given, args)
    args = below_flags(args)
    with remote.kept():
        if args[0] == "schema":
            from .engine import config_schema

            config_schema.main(CLI, args[1:])
            return
        if args[0] == "completion":
            from .engine import completion

            completion.main(CLI, tools(), tool, args[1:])
            return
        if args[0] in tools():
            tool(args[0]).main(args[1:])
            return
        cli = CLI(args)
        if args[0] == "fit":
            if cli.run is not None and not cli.run.ended:  # --trainer.max_time ended the launch
                signals.check()
            signals.is_whole()
            report(cli)


def main(args: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    outlive_output()
    if args is None:
        begin_in_utf8()
    given = sys.argv[1:] if args is None else args
    if not given or given[0] in ("-h", "--help"):
        listed = "".join(f"  {name:<10} {what}\n" for name, what in tools().items())
        print(HELP.format(package=__package__, tools=listed))
        return 0
    with signals.watched():
        try:
            from .engine.endings import exit_code, quiet

            quiet()
            code = exit_code(lambda: run(given))
            signals.check_whole()
        except BaseException as error:
            if not signals.has_ended(error):
                raise
            code = signals.exit_code(error)
    if args is None:
        signals.end_with(code)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
