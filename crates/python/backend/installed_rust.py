"""maturin, as `pip install crates/python` calls it. Where there is no Rust it would download one, which `pip` shows nothing of; with
this it says that Rust is not installed.
"""

import os

os.environ.setdefault("MATURIN_NO_INSTALL_RUST", "1")

from maturin import *  # noqa: E402, F403
