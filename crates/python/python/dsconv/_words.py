"""Errors, and the sentences of the command line in the words of Python.

The functions here run commands whose sentences name options and other commands; whoever has only the wheel has neither.
"""

from __future__ import annotations

import errno
import os
import re

from ._native import Error


class MissingError(Error, FileNotFoundError):
    """A file that was named is not there: a `dsconv.Error` and a `FileNotFoundError`."""

    __module__ = "dsconv"

    def __str__(self):
        return str(self.args[0])


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
    (r"`dsconv (quantize|analyze)`", r"`dsconv.\1`"),
    (r"(?<!the command )`dsconv [a-z][^`]*`", r"the command \g<0>"),
]
#: The options that are arguments of another name; others are those with `_` for `-`.
_ARGUMENTS = {"layer": "layers", "rule_file": "rules", "weights": "arch", "input_size": "input"}
_FLAGS = {"weights_only", "keep_worst", "convolutions_only", "proxy"}
#: `'--bits <2..8>'` of an error of usage; `` `--crop 224` ``; `--mean`. Names of files may hold dashes, too.
_OPTION = re.compile(r"'--([a-z][a-z-]*)(?: <[^>]*>)?(?:\.\.\.)?'|`--([a-z][a-z-]*)(?: ([^`]+))?`|(?<![^\s(])--([a-z][a-z-]*)")


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


def failure(text: str, hint: str | None = None, files: tuple = ()) -> Error:
    """Makes the exception of a command's error, with its hint as an attribute, too. `files` are those that were named."""
    text = said(text.removesuffix(f"\n\nhint: {hint}"))
    missing = next((path for path in map(os.fspath, files) if str(path) in text and not os.path.exists(path)), None)
    hint = hint and said(hint)
    error = (Error if missing is None else MissingError)(f"{text}\n\nhint: {hint}" if hint else text)
    error.hint = hint
    if missing is not None:
        error.errno, error.filename = errno.ENOENT, missing
    return error


def names_a_file(name: object) -> bool:
    """Tells whether a name is that of a file, also where none is there: that of a network has neither a folder nor an ending."""
    return isinstance(name, os.PathLike) or (isinstance(name, str) and ("/" in name or os.sep in name or "." in name))


def read(path: str | os.PathLike) -> bytes:
    """Reads a file."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise failure(f"`{os.fspath(path)}`: there is no such file", files=(path,)) from None
