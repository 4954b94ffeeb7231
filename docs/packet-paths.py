#!/usr/bin/env python3
"""Draws the ways of packets through each forwarding method: docs/nat.svg, docs/direct-routing.svg and
docs/tunnel.svg. `docs/packet-paths.py --check` says whether the files are what it would draw.

The addresses are those of the walkthroughs: cargo run --example nat_mode, dr_mode, tunnel_mode.
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
CLIENT, DIRECTOR, REAL_SERVER = (20, 130), (305, 130), (590, 130)
WIDTH, HEIGHT, BOX_WIDTH, BOX_HEIGHT = 800, 330, 190, 86

PICTURES = {
    "nat": {
        "title": "Masquerade (NAT): both directions pass the director",
        "boxes": ["client|172.17.0.5", "director|10.0.0.185:80 (virtual)|172.17.0.1", "real server|172.17.0.3:80"],
        "there": [
            ("to director", "1", "172.17.0.5 → 10.0.0.185:80"),
            ("to real server", "2", "172.17.0.5 → 172.17.0.3:80"),
        ],
        "back": [
            ("from real server", "3", "172.17.0.3:80 → 172.17.0.5"),
            ("from director", "4", "10.0.0.185:80 → 172.17.0.5"),
        ],
        "note": "The director rewrites the destination, and the source of the answer. The port may differ.",
    },
    "direct-routing": {
        "title": "Direct routing: the real server answers the client itself",
        "boxes": [
            "client|172.17.0.5",
            "director|10.0.0.185:80 (virtual)|172.17.0.1",
            "real server|10.0.0.185:80 (no ARP)|172.17.0.3",
        ],
        "there": [
            ("to director", "1", "172.17.0.5 → 10.0.0.185:80"),
            ("to real server", "2", "unchanged, to its MAC"),
        ],
        "back": [("straight", "3", "10.0.0.185:80 → 172.17.0.5")],
        "note": "Nothing is rewritten, so the port is the service's. Director and real server share a link.",
    },
    "tunnel": {
        "title": "Tunnel: the packet travels inside another one",
        "boxes": [
            "client|172.17.0.5",
            "director|10.0.0.185:80 (virtual)|172.17.0.1",
            "real server|10.0.0.185:80 (no ARP)|172.17.0.3, tunl0",
        ],
        "there": [
            ("to director", "1", "172.17.0.5 → 10.0.0.185:80"),
            ("to real server", "2", "in a packet to 172.17.0.3"),
        ],
        "back": [("straight", "3", "10.0.0.185:80 → 172.17.0.5")],
        "note": "IP in IP adds 20 bytes, GRE 24, GUE 32. The real server may be in another network.",
    },
}

STYLE = """
text { font: 14px sans-serif; fill: #1f2430; }
.title { font-size: 17px; font-weight: bold; }
.name { font-weight: bold; text-anchor: middle; }
.address { font: 12.5px monospace; text-anchor: middle; }
.label { font: 12px monospace; text-anchor: middle; }
.note { font-size: 13px; fill: #4a5263; }
.page { fill: #ffffff; }
.box { fill: #eef3fb; stroke: #35507a; stroke-width: 1.5; }
.director { fill: #fdf1dd; stroke: #96661a; }
.there { stroke: #1f5fbf; } .back { stroke: #2e7d4f; stroke-dasharray: 6 4; }
.there, .back { fill: none; stroke-width: 2; }
.step { font: bold 12px sans-serif; fill: #ffffff; text-anchor: middle; }
.dot-there { fill: #1f5fbf; } .dot-back { fill: #2e7d4f; }
"""


def box(corner, text, kind):
    name, *addresses = text.split("|")
    x, y = corner
    middle = x + BOX_WIDTH / 2
    lines = [f'<rect class="box {kind}" x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"/>']
    lines.append(f'<text class="name" x="{middle}" y="{y + 26}">{name}</text>')
    for line, address in enumerate(addresses):
        lines.append(f'<text class="address" x="{middle}" y="{y + 48 + 19 * line}">{address}</text>')
    return lines


def arrow(kind, path, label_at, step, label):
    x, y = label_at
    dot = x - 3.7 * len(label) - 14
    return [
        f'<path class="{kind}" d="{path}" marker-end="url(#{kind}-end)"/>',
        f'<circle class="dot-{kind}" cx="{dot}" cy="{y - 4}" r="9"/>',
        f'<text class="step" x="{dot}" y="{y}">{step}</text>',
        f'<text class="label" x="{x}" y="{y}">{label}</text>',
    ]


def draw(picture):
    top, bottom = CLIENT[1], CLIENT[1] + BOX_HEIGHT
    client, director, real = (corner[0] + BOX_WIDTH / 2 for corner in (CLIENT, DIRECTOR, REAL_SERVER))

    def over(start, end, lift):
        return f"M {start} {top} C {start} {top - lift}, {end} {top - lift}, {end} {top - 4}"

    def under(start, end, drop):
        return f"M {start} {bottom} C {start} {bottom + drop}, {end} {bottom + drop}, {end} {bottom + 4}"

    ways = {
        "to director": (over(client + 10, director - 20, 60), ((client + director) / 2, top - 54)),
        "to real server": (over(director + 20, real - 10, 60), ((director + real) / 2, top - 54)),
        "from real server": (under(real - 10, director + 20, 55), ((director + real) / 2, bottom + 62)),
        "from director": (under(director - 20, client + 10, 55), ((client + director) / 2, bottom + 62)),
        "straight": (under(real, client, 75), (director, bottom + 74)),
    }
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{picture['title']}</title>",
        f"<style>{STYLE}</style>",
        "<defs>",
    ]
    for kind, colour in (("there", "#1f5fbf"), ("back", "#2e7d4f")):
        lines.append(
            f'<marker id="{kind}-end" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7"'
            f' orient="auto-start-reverse"><path d="M 0 0 L 10 5 L 0 10 z" fill="{colour}"/></marker>'
        )
    lines.append("</defs>")
    lines.append(f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>')
    lines.append(f'<text class="title" x="20" y="32">{picture["title"]}</text>')
    kinds = ("", "director", "")
    for corner, text, kind in zip((CLIENT, DIRECTOR, REAL_SERVER), picture["boxes"], kinds):
        lines += box(corner, text, kind)
    for kind in ("there", "back"):
        for way, step, label in picture[kind]:
            path, label_at = ways[way]
            lines += arrow(kind, path, label_at, step, label)
    lines.append(f'<text class="note" x="20" y="{HEIGHT - 14}">{picture["note"]}</text>')
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


def main():
    check = sys.argv[1:] == ["--check"]
    stale = []
    for name, picture in PICTURES.items():
        path = HERE / f"{name}.svg"
        text = draw(picture)
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(f"docs/{name}.svg is not what docs/packet-paths.py draws")
    print("\n".join(stale) or f"{len(PICTURES)} pictures")
    sys.exit(bool(stale))


main()
