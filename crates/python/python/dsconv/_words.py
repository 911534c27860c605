"""Errors, and the sentences of the command line in the words of Python.

The functions here run commands whose sentences name options and other commands; whoever has only the wheel has neither.
"""

from __future__ import annotations

import errno
import os
import re

from ._native import Error


class MissingError(Error, FileNotFoundError):
    """There is nothing at a path or a name: a `dsconv.Error` and a `FileNotFoundError`, whose `filename` is the path or the name."""

    __module__ = "dsconv"

    def __init__(self, text: str, filename: str | None = None):
        super().__init__(text)
        self.errno, self.filename = errno.ENOENT, filename

    def __str__(self):
        return str(self.args[0])

    def __reduce__(self):
        return MissingError, (self.args[0], self.filename), {"hint": self.hint}


#: Sentences that say something else in Python.
_SENTENCES = [
    (r"`dsconv models` lists the names", "`dsconv.networks()` lists the names"),
    (r"`dsconv data get ([^`]+)` downloads them, or give your own with `--weights FILE`", r'give them: `dsconv.quantize(FILE, arch="\1")`'),
    (r"give a file with `--weights FILE`, or train some: `dsconv train CONFIG`", "give them: `dsconv.quantize(FILE, arch=NAME)`"),
    (r"`dsconv export MODEL --format state-dict -o \S+` writes what .*", "`state_dict()` gives what `load_state_dict` takes"),
    (r"the model comes first: `dsconv predict MODEL [^`]*`", "`classify` of a model takes pictures"),
    (r"(images go to) `--data`", r"\1 `images`"),
    (r"for `dsconv verify`", "for `verify()`"),
    (r" \(--stem cifar\)", ""),
    (r"\n +\[possible values: ([^\]]*)\]", r": one of \1"),
    (r"`dsconv (quantize|analyze)`", r"`dsconv.\1`"),
    (r"(?<!the command )`dsconv [a-z][^`]*`", r"the command \g<0>"),
]
#: The options that are arguments of another name; others are those with `_` for `-`.
_ARGUMENTS = {"layer": "layers", "rule_file": "rules", "weights": "arch", "input_size": "input"}
_FLAGS = {"weights_only", "keep_worst", "convolutions_only", "proxy"}
#: `'--bits <2..8>'` and `'--winograd[=<2..6>]'` of an error of usage; `` `--crop 224` ``; `--mean`. Names of files may hold dashes, too.
_OPTION = re.compile(r"'--([a-z][a-z-]*)(?: <[^>]*>|\[=<[^>]*>\])?(?:\.\.\.)?'|`--([a-z][a-z-]*)(?: ([^`]+))?`|(?<![^\s(])--([a-z][a-z-]*)")


def said(text: str) -> str:
    """Writes a sentence of the command line with the names of arguments in place of options."""
    for pattern, words in _SENTENCES:
        text = re.sub(pattern, words, text)

    def argument(found: re.Match) -> str:
        usage, quoted, value, bare = found.groups()
        name = (usage or quoted or bare).replace("-", "_")
        name = _ARGUMENTS.get(name, name)
        if bare:
            return name
        if value is not None and value.isalpha() and value.islower():
            value = f'"{value}"'
        value = value or ("True" if quoted and name in _FLAGS else None)
        return f"`{name}={value}`" if value else f"`{name}`"

    # What the command line is told stays as it is.
    parts = re.split(r"(the command `[^`]*`)", text)
    parts[::2] = [_OPTION.sub(argument, part) for part in parts[::2]]
    return "".join(parts)


def failure(text: str, hint: str | None = None, is_missing: bool = False, named: tuple = ()) -> Error:
    """Makes the exception of a command's error, with its hint as an attribute, too.

    `is_missing` says that there is nothing at a path or a name, which is one of those that the caller `named`.
    """
    names = [name for name in map(os.fsdecode, named) if name in text]
    filename = next((name for name in names if f"`{name}`" in text), names[0] if names else None)
    text = said(text.removesuffix(f"\n\nhint: {hint}"))
    hint = hint and said(hint)
    whole = f"{text}\n\nhint: {hint}" if hint else text
    error = MissingError(whole, filename) if is_missing else Error(whole)
    error.hint = hint
    return error


def read(path: str | os.PathLike) -> bytes:
    """Reads a file."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise failure(f"`{os.fspath(path)}`: there is no such file", is_missing=True, named=(path,)) from None
