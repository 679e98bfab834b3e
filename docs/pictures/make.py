"""Makes the README's pictures: `python docs/pictures/make.py` types what the README says, for real, and draws the answers.

The commands run in processes of their own, in a folder that is thrown away. Only the machine's name is another one.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WIDTH = 100

PICTURES = {
    "why": ["why", "letter:case-4713:1"],
    "balance": ["balance"],
}

FONTS = '"Fira Code", "DejaVu Sans Mono", Menlo, Consolas, monospace'
"""The reader's own; a picture fetches none."""

PROGRAM = "import socket; socket.gethostname = lambda: 'machine-1'; from crossfoot.cli import main; main()"


def readers_commands() -> str:
    """The block of commands that the README has its reader type."""
    _, _, below = (
        (ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- run: examples/quickstart -->\n```sh\n")
    )
    return below.partition("```")[0]


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(ROOT / "examples" / "quickstart", Path(place) / "quickstart"))
        program = folder / "crossfoot"
        program.write_text(f"#!{sys.executable}\n{PROGRAM}\n", encoding="utf-8")
        program.chmod(0o755)
        environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "COLUMNS": str(WIDTH)}
        subprocess.run(["bash", "-euc", readers_commands()], cwd=folder, env=environment, check=True)
        for name, arguments in PICTURES.items():
            command = [str(program), *arguments, "--color=always"]
            answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            draw(name, f"crossfoot {' '.join(arguments)}", answer.stdout)


def draw(name: str, title: str, answer: str) -> None:
    """One answer, with its colours, as a picture of a terminal."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(answer.rstrip("\n")))
    form = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    form = form.replace("Fira Code, monospace", FONTS)
    picture = console.export_svg(title=title, theme=MONOKAI, unique_id=f"crossfoot-{name}", code_format=form)
    (HERE / f"{name}.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
