"""Prints the script by which a shell completes the commands, options and files of `parity`.

    bash   parity completion bash > ~/.local/share/bash-completion/completions/parity
    zsh    parity completion zsh > ~/.zsh/_parity     with ~/.zsh in $fpath, before compinit
    fish   parity completion fish > ~/.config/fish/completions/parity.fish

It is made from the parser that reads the command line.
"""

from __future__ import annotations

import argparse

from caffe_parity.errors import BadRequest

EXAMPLES = """\
  parity completion bash > ~/.local/share/bash-completion/completions/parity
  eval "$(parity completion bash)"
  parity completion fish | source
"""

EPILOG = "exit status: 0, or 2 if it could not be carried out"

FILES = ("FILE", "NET", "TESTS", ".json", "DIR")
"""What stands in the name of a value that is a file or a folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity completion`."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell completes")


def carried_out(options: argparse.Namespace) -> int:
    """Prints the script; returns the exit status.

    Raises:
        BadRequest: the library that makes it is not there.
    """
    from caffe_parity.cli.main import parser

    try:
        import shtab
    except ImportError as error:
        raise BadRequest("shtab is not installed, which makes the script: pip install shtab") from (
            error
        )
    made = parser((), every=True)
    for commands in made._actions:
        if isinstance(commands, argparse._SubParsersAction):
            for command in commands.choices.values():
                for action in command._actions:
                    if _is_file(action):
                        action.complete = shtab.FILE
    print(shtab.complete(made, options.shell))
    return 0


def _is_file(action: argparse.Action) -> bool:
    name = str(action.metavar)
    return action.choices is None and any(each in name for each in FILES)
