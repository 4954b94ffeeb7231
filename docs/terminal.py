#!/usr/bin/env python3
"""Records what `cargo run --example nat_mode` shows in a terminal as docs/nat_mode.svg.
`docs/terminal.py --check` checks that it still shows that; only the kernel's release may differ."""

import html
import os
import pathlib
import pty
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
FILE = HERE / "nat_mode.svg"
COMMAND = ["cargo", "run", "--quiet", "--example", "nat_mode"]
FONT_SIZE, LINE, COLUMN, MARGIN = 13, 17, 7.9, 16
# What the examples use of the terminal's colours.
STYLES = {"1": "title", "31": "bad", "32": "good", "33": "changed", "36": "command"}


def record():
    """The output of the command on a terminal."""
    output = bytearray()

    def read(file):
        output.extend(data := os.read(file, 65536))
        return data

    os.environ.update({"TERM": "xterm-256color", "NO_COLOR": ""})
    os.chdir(HERE.parent)
    # pty.spawn copies the output to standard output: discard that copy.
    stdout = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    status = pty.spawn(COMMAND, read)
    os.dup2(stdout, 1)
    text = output.decode().replace("\r\n", "\n")
    if status:
        sys.exit(f"{' '.join(COMMAND)} failed:\n{text}")
    return text


def spans(line):
    """The line as SVG, in its colours."""
    drawn, style = "", None
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if part.startswith("\x1b"):
            style = STYLES.get(part[2:-1])
        elif part and style:
            drawn += f'<tspan class="{style}">{html.escape(part, quote=False)}</tspan>'
        else:
            drawn += html.escape(part, quote=False)
    return drawn


def draw(text):
    lines = [f"\x1b[1m$ {' '.join(COMMAND).replace(' --quiet', '')}\x1b[0m", *text.rstrip("\n").split("\n")]
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    width = round(2 * MARGIN + COLUMN * max(map(len, plain)))
    height = 2 * MARGIN + LINE * len(lines)
    rows = (
        f'<text xml:space="preserve" x="{MARGIN}" y="{MARGIN + LINE * row + FONT_SIZE}">{spans(line.rstrip())}</text>\n'
        for row, line in enumerate(lines)
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">
<title>cargo run --example nat_mode, in a terminal</title>
<style>
text {{ font: {FONT_SIZE}px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #d5d9e0; }}
.title {{ fill: #ffffff; font-weight: bold; }}
.command {{ fill: #79c7d3; }}
.good {{ fill: #8fd18f; }}
.bad {{ fill: #e08a8a; }}
.changed {{ fill: #e0c98a; }}
</style>
<rect width="{width}" height="{height}" rx="8" fill="#1b1f27"/>
{"".join(rows)}</svg>
"""


def same(picture):
    """The picture without what differs from machine to machine."""
    # From 7.1 on the size of the table of connections differs.
    return re.sub(r"Running on [^<]*|size=\d+", "", picture)


picture = draw(record())
if sys.argv[1:] == ["--check"]:
    if same(picture) != same(FILE.read_text()):
        sys.exit("docs/nat_mode.svg is not what nat_mode shows: run docs/terminal.py to record it")
    print("docs/nat_mode.svg is what nat_mode shows")
elif sys.argv[1:]:
    sys.exit(__doc__)
else:
    FILE.write_text(picture)
