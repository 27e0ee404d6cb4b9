"""One self-contained page about the figures of bench.py: no network, light and dark.

    python3 bench/report.py target/bench/report.json target/bench/report.html

The charts are matplotlib's, as SVG in the page. Their colours are names of the page's style sheet,
put in after drawing, so that they follow the reader's choice of light or dark.
"""

import html
import io
import json
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402 (after the choice above)
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator  # noqa: E402

# Stand-ins while drawing; in the page, variables of the style sheet.
COLOURS = {
    "text": "#000101", "muted": "#000102", "grid": "#000103", "engine": "#000104",
    "peer": "#000105", "user": "#000106", "system": "#000107", "mark": "#000108",
    "line1": "#000109", "line2": "#00010a", "line3": "#00010b", "line4": "#00010c",
    "line5": "#00010d", "line6": "#00010e",
}
STYLE = """
:root { color-scheme: light dark;
  --page: #ffffff; --card: #f7f8fa; --text: #1b1f24; --muted: #5b6470; --grid: #dfe3e8;
  --engine: #1f6feb; --peer: #a9b4c0; --user: #1a9c8c; --system: #c3ccd6; --mark: #1b1f24;
  --line1: #1f6feb; --line2: #d1570b; --line3: #1a9c8c; --line4: #a0359c; --line5: #7a8694;
  --line6: #b08800; --pass: #16794a; --miss: #c62a2f; }
@media (prefers-color-scheme: dark) { :root {
  --page: #0f1318; --card: #171c23; --text: #e4e8ee; --muted: #98a2af; --grid: #2b333d;
  --engine: #5b9dff; --peer: #5c6875; --user: #3cc4b1; --system: #46525f; --mark: #e4e8ee;
  --line1: #5b9dff; --line2: #ff9a52; --line3: #3cc4b1; --line4: #dc7fd8; --line5: #98a2af;
  --line6: #e0b83c; --pass: #4cc38a; --miss: #ff7b7f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 1180px; background: var(--page);
  color: var(--text); font: 15px/1.5 "DejaVu Sans", Verdana, system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .1rem; } p { margin: .4rem 0; max-width: 78ch; }
.muted { color: var(--muted); } small, .muted { font-size: .87rem; }
.card { background: var(--card); border: 1px solid var(--grid); border-radius: 8px;
  padding: 1rem 1.1rem; margin: 1rem 0; overflow-x: auto; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 0; }
.tile { background: var(--card); border: 1px solid var(--grid); border-radius: 8px;
  padding: .6rem 1rem; } .tile b { display: block; font-size: 1.5rem; }
.grid { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
.grid .card { margin: 0; }
table { border-collapse: collapse; font-size: .84rem; width: 100%; }
th { text-align: left; color: var(--muted); font-weight: normal; }
th, td { padding: .22rem .6rem .22rem 0; border-bottom: 1px solid var(--grid);
  white-space: nowrap; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.wrap { white-space: normal; min-width: 16rem; }
.pass { color: var(--pass); font-weight: bold; } .miss { color: var(--miss); font-weight: bold; }
details { margin-top: .6rem; } summary { cursor: pointer; color: var(--muted);
  font-size: .87rem; } svg { display: block; max-width: 100%; height: auto; }
"""


def number(value, digits=3):
    """Three leading digits, and k, M for large ones."""
    if value is None:
        return "–"
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.{digits}g} {unit}"
    return f"{value:.{digits}g}"


def short(value, _position=None):
    return number(value).replace(" ", "")


def bytes_said(value, _position=None):
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


# ---- charts --------------------------------------------------------------------------------------

plt.rcParams.update({
    "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9.5,
    "text.color": COLOURS["text"], "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["grid"], "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"], "grid.color": COLOURS["grid"], "axes.titlesize": 9.5,
    "axes.titlelocation": "left", "axes.titlecolor": COLOURS["muted"], "axes.spines.top": False,
    "axes.spines.right": False, "axes.axisbelow": True, "legend.frameon": False,
    "legend.fontsize": 9, "grid.linewidth": 0.7, "axes.linewidth": 0.8,
})


def svg_of(figure, says):
    """The figure as a part of the page, with the page's colours."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = out.getvalue()
    text = text[text.index("<svg"):]
    for name, stand_in in COLOURS.items():
        text = text.replace(stand_in, f"var(--{name})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(says)}" ', 1)


def bare_rows(axes, names, labelled):
    axes.set_yticks(range(len(names)), names if labelled else [""] * len(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelcolor=COLOURS["text"])
    axes.tick_params(axis="x", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def beside(axes, x, y, text):
    axes.annotate(text, (x, y), (5, 0), textcoords="offset points", va="center")


def colour_of(result):
    return COLOURS["engine" if result["engine"] else "peer"]


def draw_speed(axes, rows, unit):
    for y, r in enumerate(rows):
        speed = r["speed"]
        axes.barh(y, speed["median"], height=0.62, color=colour_of(r))
        axes.plot([speed["q1"], speed["q3"]], [y, y], color=COLOURS["mark"], linewidth=1.6)
        beside(axes, max(speed["median"], speed["q3"]), y,
               f"{number(speed['median'])}\u2002×{r['ratio']['median']:.2f}")
    axes.set_xlim(0, 1.5 * max(max(r["speed"]["median"], r["speed"]["q3"]) for r in rows))
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.set_title(f"{unit} per second, and × the first")


def draw_latency(axes, rows):
    marks = (("50", "o", "p50"), ("99", "D", "p99"), ("99.9", ">", "p99.9"))
    for percent, shape, label in marks:
        points = [(r["latency_us"][percent], y) for y, r in enumerate(rows) if r["latency_us"]]
        axes.scatter([x for x, _ in points], [y for _, y in points], marker=shape, s=30,
                     facecolor=COLOURS["mark"] if percent == "50" else "none",
                     edgecolor=COLOURS["mark"], linewidth=1.1, label=label, zorder=3)
    for y, r in enumerate(rows):
        if r["latency_us"]:
            values = list(r["latency_us"].values())
            axes.plot([min(values), max(values)], [y, y], color=colour_of(r), linewidth=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.set_title("latency, µs:  ● p50  ◇ p99  ▷ p99.9")


def draw_cpu(axes, rows):
    user, system = [r["user_ns"] / 1e3 for r in rows], [r["system_ns"] / 1e3 for r in rows]
    axes.barh(range(len(rows)), user, height=0.62, color=COLOURS["user"])
    axes.barh(range(len(rows)), system, height=0.62, left=user, color=COLOURS["system"])
    for y, (a, b) in enumerate(zip(user, system)):
        beside(axes, a + b, y, f"{a + b:.3g}")
    axes.set_xlim(0, 1.3 * max(a + b for a, b in zip(user, system)) or 1)
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.set_title("CPU per operation, µs:  user, then system")


def case_chart(case, rows):
    timed = any(r["latency_us"] for r in rows)
    columns, widths = (3, (5, 4, 4)) if timed else (2, (5, 4))
    figure, axes = plt.subplots(1, columns, figsize=(12.2, 0.75 + 0.3 * len(rows)),
                                layout="constrained", gridspec_kw={"width_ratios": widths})
    for i, each in enumerate(axes):
        bare_rows(each, [r["side"] for r in rows], i == 0)
    draw_speed(axes[0], rows, case["unit"])
    if timed:
        draw_latency(axes[1], rows)
    draw_cpu(axes[-1], rows)
    return svg_of(figure, f"{case['name']}: speed, latency and CPU time of each side")


def draw_family(axes, cases, key, bytes_per_second):
    """One line for each side over the values of a family, with its quartiles."""
    values = [case["family"][1] for case in cases]
    sides = list(dict.fromkeys(r["side"] for case in cases for r in drawn(case)))
    for number_of, side in enumerate(sides):
        points = [(value, r["speed"], case["options"]["block"] if bytes_per_second else 1)
                  for value, case in zip(values, cases) for r in drawn(case) if r["side"] == side]
        colour = COLOURS[f"line{number_of % 6 + 1}"]
        x = [value for value, _, _ in points]
        axes.plot(x, [s["median"] * n for _, s, n in points], color=colour, marker="o",
                  markersize=4, linewidth=1.8, label=side)
        axes.fill_between(x, [s["q1"] * n for _, s, n in points],
                          [s["q3"] * n for _, s, n in points], color=colour, alpha=0.15,
                          linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [bytes_said(v) if key == "block" else str(v) for v in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(bytes_said if bytes_per_second else short))
    axes.tick_params(length=0)
    axes.grid(axis="y")
    axes.set_xlabel(key)


def family_chart(cases, key):
    figure, axes = plt.subplots(figsize=(6.0, 3.4), layout="constrained")
    draw_family(axes, cases, key, key == "block")
    axes.set_title("bytes per second" if key == "block" else f"{cases[0]['unit']} per second")
    axes.legend(loc="best")
    return svg_of(figure, f"speed over {key}")


def matrix_chart(group):
    """Of one place, order and mode: blocks from left to right, over depth and over threads."""
    blocks = sorted({block for block, _ in group})
    figure, axes = plt.subplots(2, len(blocks), figsize=(12.2, 5.4), layout="constrained",
                                squeeze=False)
    for column, block in enumerate(blocks):
        for row, key in enumerate(("depth", "threads")):
            each = axes[row][column]
            if (block, key) not in group:
                each.set_visible(False)
                continue
            draw_family(each, group[block, key], key, False)
            each.set_title(f"{bytes_said(block)}, a second")
    for row in axes:
        handles = {label: handle for each in row for handle, label in
                   zip(*each.get_legend_handles_labels())}
        row[-1].legend(handles.values(), handles.keys(), loc="center left",
                       bbox_to_anchor=(1.02, 0.5))
    return svg_of(figure, "speed over depth and threads, for each block size")


def stacked_chart(rows, parts, title):
    """rows: (name, one value for each part); parts: (what, its colour, or one for each row)."""
    figure, axes = plt.subplots(figsize=(5.6, 0.9 + 0.3 * len(rows)), layout="constrained")
    bare_rows(axes, [name for name, _ in rows], True)
    left = [0.0] * len(rows)
    for i, (what, colour) in enumerate(parts):
        widths = [values[i] for _, values in rows]
        colours = [COLOURS[c] for c in colour] if isinstance(colour, list) else COLOURS[colour]
        axes.barh(range(len(rows)), widths, left=left, height=0.62, color=colours, label=what)
        left = [a + b for a, b in zip(left, widths)]
    for y, value in enumerate(left):
        beside(axes, value, y, number(value))
    axes.set_xlim(0, 1.25 * max(left) or 1)
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.set_title(title)
    if len(parts) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.08), ncols=len(parts))
    return svg_of(figure, title)


# ---- the page ------------------------------------------------------------------------------------


def drawn(case):
    return [r for r in case["results"] if "speed" in r]


def table(head, rows):
    def cell(value, tag):
        kind = "" if isinstance(value, str) else ' class="n"'
        if isinstance(value, tuple):
            value, kind = value[0], f' class="{value[1]}"'
        said = value if isinstance(value, str) else "–" if value is None else number(value, 4)
        return f"<{tag}{kind}>{html.escape(said)}</{tag}>"

    lines = ["<table><thead><tr>", *(cell((h, "n") if i else h, "th") for i, h in enumerate(head)),
             "</tr></thead><tbody>"]
    for row in rows:
        lines += ["<tr>", *(cell(value, "td") for value in row), "</tr>"]
    return "".join([*lines, "</tbody></table>"])


def case_table(case):
    def middle(r, what):
        return r[what]["median"] if what in r else None

    rows = [[r["side"], middle(r, "speed"), r["speed"]["min"], r["speed"]["max"],
             middle(r, "ratio"), middle(r, "calls"), middle(r, "operations"), r["user_ns"],
             r["system_ns"], *((r["latency_us"] or {}).get(p) for p in ("50", "99", "99.9")),
             middle(r, "syncs")] for r in drawn(case)]
    head = ["side", f"{case['unit']}/s", "min", "max", "ratio", "calls/op", "kernel/op", "user ns",
            "system ns", "p50 µs", "p99 µs", "p99.9 µs", "syncs/s"]
    keep = [i for i in range(len(head)) if i == 0 or any(row[i] is not None for row in rows)]
    said = table([head[i] for i in keep], [[row[i] for i in keep] for row in rows])
    left_out = "".join(f"<p class='muted'>{html.escape(r['side'])} is left out: "
                       f"{html.escape(r['left_out'])}</p>"
                       for r in case["results"] if r.get("left_out"))
    return said + left_out


def case_card(case):
    return (f"<div class='card'><h3>{html.escape(case['name'])}</h3>"
            f"<p class='muted'>{html.escape(case['what'])}</p>{case_chart(case, drawn(case))}"
            f"<details><summary>all figures</summary>{case_table(case)}</details></div>")


def targets_table(targets):
    marks = {True: ("PASS", "pass"), False: ("MISS", "miss"), None: ("–", "muted")}
    rows = [[marks[t["pass"]], t["case"], t["side"], (t["text"], "wrap"), t["limit_text"]]
            for t in targets]
    return table(["", "case", "side", "measured", "wanted"], rows).replace(
        '<th class="n">', "<th>")


def counted_cards(cases):
    """What is counted and not timed."""
    if case := cases.get("instructions"):
        rows = [(r["side"], (r["instructions"], r["program"]))
                for r in case["results"]]
        yield stacked_chart(rows, [("in libraries", "engine"), ("in the program", "peer")],
                            "user-space instructions per operation (callgrind)")
    if case := cases.get("calls"):
        rows = [(r["side"], (r["enter"], r["beside"], r["yield"])) for r in case["results"]]
        yield stacked_chart(rows, [("io_uring_enter", "engine"), ("others", "line2"),
                                   ("sched_yield", "peer")], "system calls per operation (perf)")
    if case := cases.get("memory"):
        yield stacked_chart([(r["side"], (r["per_event"],)) for r in case["results"]],
                            [("bytes", ["engine" if r["engine"] else "peer"
                                        for r in case["results"]])],
                            "bytes for one more event in flight")
    if case := cases.get("lives"):
        yield stacked_chart([(r["side"].split()[-1], (r["life"],)) for r in case["results"]],
                            [("ms", "engine")], "ms to make and free a context")
    if case := cases.get("idle"):
        yield "<h3>idle contexts</h3>" + table(
            ["driver", "processors", "wake-ups/s", "MiB each"],
            [[r["side"].split()[-1], r["cpu"], r["wakes"], r["memory"]] for r in case["results"]])


HOW = """
<p>Every bar is the median of many short samples. Between two samples of a side every other side of
its case had its turn, in processes of their own; ratios are medians of the ratios of samples taken
in the same turn, so that a slow moment of the machine hits both. The thin dark line spans the
quartiles: where two of them overlap widely, the two sides are not told apart. Blue is this engine,
grey is what a program would use otherwise. All do the same work: the same blocks of the same file,
as many in flight, as large batches; each looks at every result and at a sample of the data.</p>
<p>Latencies are from before a submission to the end of the check of what came, of a sample of all
transfers. CPU time is that of all threads of the side's process, in which the kernel's work in
system calls counts as system; how it divides into user and system the kernel only samples.
Instructions are those of callgrind, during the transfers alone: what is in libraries is the engine
with what it calls, or the peer's library; what is in the program is drawing the next block and
checking it, and peers written by hand. System calls are what perf counts in a long run less what it
counts in a short one; sched_yield is the bench's own submitting threads that wait for a free event.
Memory for one more event in flight: what the process has more of with 4096 events in flight than
with 128, by the pages that are resident, divided by their difference; the buffer of the data is not
in it, what the program keeps for an event is, and so are io_uring's queues.</p>
<p>A target is met or missed by the median; run the bench again, or longer (--scale), before you
believe a close one.</p>
"""


def matrix_sections(families):
    groups = {}
    for name, cases in families.items():
        if name.count("-") == 4:
            place, order, mode, block, key = name.split("-")
            groups.setdefault(f"{place}, {order}, {mode}", {})[int(block), key] = cases
    for name, group in groups.items():
        tables = "".join(f"<p>{html.escape(case['what'])}</p>{case_table(case)}"
                         for cases in group.values() for case in cases)
        yield (f"<div class='card'><h3>{name}</h3>{matrix_chart(group)}"
               f"<details><summary>all figures</summary>{tables}</details></div>")


def page(data):
    cases = {case["name"]: case for case in data["cases"]}
    families = {}
    for case in data["cases"]:
        if case["family"] and drawn(case):
            families.setdefault(case["family"][0], []).append(case)
    plain = [case for case in data["cases"] if not case["family"] and drawn(case)]
    where, counts = data["machine"], [sum(t["pass"] is kept for t in data["targets"])
                                      for kept in (True, False, None)]
    parts = ["<!doctype html><html lang='en'><meta charset='utf-8'>",
             "<meta name='viewport' content='width=device-width'><title>io_engine: bench</title>",
             f"<style>{STYLE}</style><h1>io_engine {html.escape(data['version'])}: bench</h1>",
             f"<p class='muted'>{html.escape(where['cpu'])}, {where['processors']} processors, "
             f"{where['memory']} · {html.escape(where['kernel'])} {where['machine']} · "
             f"{where['files']} · {data['when']}, {data['seconds']:.0f} s"
             f"{', the whole matrix' if data['full'] else ''}</p>",
             "<div class='tiles'>"
             f"<div class='tile'><b class='pass'>{counts[0]}</b>targets met</div>"
             f"<div class='tile'><b class='miss'>{counts[1]}</b>missed</div>"
             f"<div class='tile'><b>{counts[2]}</b>not measured</div></div>",
             "<h2>How to read it</h2>", HOW]
    if data["targets"]:
        parts += ["<h2>Targets</h2><div class='card'>", targets_table(data["targets"]), "</div>"]
    if plain:
        parts += ["<h2>Side by side</h2>", *map(case_card, plain)]
    scaling = [(key, families[key]) for key in ("depth", "block", "threads") if key in families]
    if scaling:
        parts += ["<h2>Scaling</h2><div class='grid'>",
                  *(f"<div class='card'><h3>over {key}</h3><p class='muted'>"
                    f"{html.escape(cases[0]['what'].split(';')[0])}</p>{family_chart(cases, key)}"
                    "</div>" for key, cases in scaling), "</div>"]
    counted = list(counted_cards(cases))
    if counted:
        parts += ["<h2>Counted</h2><div class='grid'>",
                  *(f"<div class='card'>{chart}</div>" for chart in counted), "</div>"]
    matrix = list(matrix_sections(families))
    if matrix:
        parts += ["<h2>The matrix</h2>", *matrix]
    return "\n".join(parts) + "</html>\n"


def write(data, path):
    with open(path, "w", encoding="utf-8") as to:
        to.write(page(data))


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as given:
        write(json.load(given), sys.argv[2])
