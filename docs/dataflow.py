"""Draws the figure of architecture.md: `python docs/dataflow.py > docs/dataflow.svg`."""

WIDTH, HIGH, ROW = 214, 62, 104
# Column and row, title, what it holds, the module.
BOXES = {
    "source": (0, 0, "source", "CSV, folders, zip, Parquet", "shards/sources"),
    "shards": (1, 0, "shards", "tars and manifest.json", "shards/create.py"),
    "fetch": (2, 0, "fetch", "bytes, checked by SHA-256", "data/fetch.py"),
    "cache": (3, 0, "cache", "decoded pixels, once a node", "data/cache.py"),
    "numbers": (0, 1, "seed, epoch, step", "numbers only", "config.py"),
    "plan": (1, 1, "plan", "global batches, a rank's slice", "data/plan.py"),
    "loader": (2, 1, "loader", "gathers a batch of uint8", "data/loader.py"),
    "augment": (3, 1, "augment, mix", "on the device, whole batches", "data/augment.py"),
    "run": (0, 2, "run folder", "record, history, curves", "tracking"),
    "saving": (1, 2, "saving, signals", "checkpoints at a step's end", "train/saving.py"),
    "step": (2, 2, "step", "loss, gradients, one reduction", "train/module.py"),
    "model": (3, 2, "model", "backbone, patches, attention", "model"),
    "report": (0, 3, "report, W&B", "pages and curves", "report, tracking"),
    "score": (1, 3, "evaluation, audit", "scores, and what is behind", "evaluation"),
    "use": (2, 3, "predict", "photographs and videos", "predict"),
    "file": (3, 3, "export", "ONNX, safetensors, .pt2", "export"),
}  # fmt: skip
ARROWS = [
    ("source", "shards"), ("shards", "fetch"), ("fetch", "cache"), ("numbers", "plan"),
    ("plan", "loader"), ("cache", "loader"), ("loader", "augment"), ("augment", "model"),
    ("model", "step"), ("step", "saving"), ("saving", "run"), ("saving", "score"),
    ("run", "report"), ("saving", "use"), ("saving", "file"),
]  # fmt: skip
STYLE = """
  .box { fill: #f6f8fb; stroke: #5b7083; }
  text { font: 13px system-ui, sans-serif; fill: #1c2730; text-anchor: middle; }
  .title { font-weight: 600; font-size: 15px; }
  .where { font: 12px ui-monospace, monospace; fill: #46606f; }
  path { fill: none; stroke: #5b7083; stroke-width: 1.5; marker-end: url(#tip); }
  #tip path { fill: #5b7083; stroke: none; marker-end: none; }
  @media (prefers-color-scheme: dark) {
    .box { fill: #1d262e; stroke: #8fa6b8; } text { fill: #e4ebf0; } .where { fill: #a9bfcd; }
    path { stroke: #8fa6b8; } #tip path { fill: #8fa6b8; }
  }
"""


def corner(name: str) -> tuple[int, int]:
    """The upper left corner of a box."""
    column, row = BOXES[name][:2]
    return 10 + column * (WIDTH + 40), 10 + row * ROW


def arrow(start: str, end: str) -> str:
    """A path from the side of a box that faces the other one."""
    (x, y), (u, v) = corner(start), corner(end)
    if y == v:
        right = u > x
        return f"M{x + WIDTH * right},{y + HIGH / 2} H{u - 3 if right else u + WIDTH + 3}"
    middle, down = (y + HIGH + v) / 2, f"V{v - 3}"
    if x == u:
        return f"M{x + WIDTH / 2},{y + HIGH} {down}"
    return f"M{x + WIDTH / 2},{y + HIGH} V{middle} H{u + WIDTH / 2} {down}"


def draw() -> str:
    """The figure."""
    right = max(corner(name)[0] for name in BOXES) + WIDTH + 10
    bottom = max(corner(name)[1] for name in BOXES) + HIGH + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right} {bottom}" role="img"',
        '  aria-label="How data flows: from a source over shards, cache and loader into training,',
        '  and from checkpoints into scores, predictions and exported files">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7"',
        '  markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
        *(f'<path d="{arrow(start, end)}"/>' for start, end in ARROWS),
    ]
    for name, (_, _, title, holds, where) in BOXES.items():
        x, y = corner(name)
        lines.append(
            f'<rect class="box" x="{x}" y="{y}" width="{WIDTH}" height="{HIGH}" rx="6"/>'
            f'<text class="title" x="{x + WIDTH / 2}" y="{y + 19}">{title.replace("&", "&amp;")}'
            f'</text><text x="{x + WIDTH / 2}" y="{y + 37}">{holds}</text>'
            f'<text class="where" x="{x + WIDTH / 2}" y="{y + 54}">{where}</text>'
        )
    return "\n".join([*lines, "</svg>\n"])


if __name__ == "__main__":
    print(draw(), end="")
