"""One self-contained page about one or more runs: what an auditor opens first.

The page loads nothing, runs nothing and refers to nothing outside itself; its content security policy says
so to the browser. Every text in it is escaped. It is well-formed XML, which the tests rely on.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import msgspec

from veilsum.errors import ConfigError
from veilsum.node import charts
from veilsum.node.charts import escape, quantity
from veilsum.node.summary import AnyChart, Bars, Curve, StepTime, Summary

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

OWN, OTHER, SHARED = "own ids", "ids of ", ("matches", "ids in common")
"""Names of the facts from which the picture of two overlapping sets is drawn (``ids of insurer-b``)."""

BEYOND = (
    "Beyond this: no protocol checks that the data an organisation enters are true, and none hides what "
    "follows from the results themselves, alone or together with what a party knows from elsewhere."
)


_Key = tuple[int, str]


class RecordLine(msgspec.Struct, frozen=True, kw_only=True):
    """One party's signed record as it was found when the report was drawn.

    Attributes:
        path: where the record lies, as the command below names it.
        digest: SHA-256 of the record, hexadecimal.
        jobs: how many jobs the chain holds up to this record.
        command: what a reader types to verify it.
        fault: why it does not verify; empty when chain and signatures do.
    """

    party: str
    path: str
    digest: str
    jobs: int
    command: str
    fault: str = ""


def render(summaries: Sequence[Summary], *, title: str, records: Sequence[RecordLine] = ()) -> str:
    """Return the report as one HTML page.

    Args:
        summaries: one per party and run; those of one run are told together, runs in the order given.
        title: the page's heading.
        records: the records of these runs, already verified by the caller.

    Raises:
        ConfigError: there is no summary.
    """
    if not summaries:
        raise ConfigError("a report needs the result of at least one run", remedy="name a finished run")
    runs: dict[tuple[str, str], list[Summary]] = {}
    for summary in summaries:
        runs.setdefault((summary.run, summary.artefact), []).append(summary)
    chapters = list(runs.values())
    css = resources.files("veilsum.node").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"/>'
        '<meta name="color-scheme" content="light dark"/><meta name="referrer" content="no-referrer"/>'
        f"<title>{escape(title)}</title><style>:root{{{charts.LIGHT}--sans:{charts.FONT}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{charts.DARK}}}}}\n{css}</style></head><body>"
        f'<header><p class="brand">veilsum · report of a joint computation</p><h1>{escape(title)}</h1>'
        f"{_contents(chapters)}</header><main>"
        + "".join(_chapter(views, number, several=len(chapters) > 1) for number, views in enumerate(chapters))
        + _records(records, chapters)
        + "</main><footer><p>Drawn by veilsum from what each party's own node wrote down. It holds "
        "counts, sizes, times, and names of parties and files; no identifiers, no rows. It loads nothing.</p>"
        "</footer></body></html>\n"
    )


def _contents(chapters: Sequence[Sequence[Summary]]) -> str:
    """List the runs of a page that tells of several."""
    if len(chapters) < 2:
        return ""
    items = (
        f'<li><a href="#run-{number}">{escape(views[0].artefact)}</a> {escape(views[0].purpose)}</li>'
        for number, views in enumerate(chapters)
    )
    return f"<nav><ol>{''.join(items)}</ol></nav>"


def _chapter(views: Sequence[Summary], number: int, *, several: bool) -> str:
    """Tell one run from all views of it that are at hand."""
    one = views[0]
    heading = f'<h2 class="run">{escape(one.artefact)}</h2>' if several else ""
    return (
        f'<article id="run-{number}">{heading}<p class="lede">Purpose: {escape(one.purpose)}</p>'
        + _strip(views)
        + _job(views)
        + _warnings(views)
        + _facts(views)
        + _charts(views)
        + _leaks(views)
        + f'<section><h2>What this withstands, and what not</h2><p class="limit">{escape(one.adversary)}</p>'
        f"<p>{BEYOND}</p></section>" + _steps(views) + _files(views) + _algorithms(views) + "</article>"
    )


def _strip(views: Sequence[Summary]) -> str:
    """Show the four figures that a reader looks for first."""
    one = views[0]
    if len(views) > 1:
        traffic = quantity(sum(view.sent for view in views), "B"), "sent, all parties"
    else:
        traffic = f"{quantity(one.sent, 'B')} / {quantity(one.received, 'B')}", "sent / received here"
    members = {party for group in one.parties.values() for party in group}
    warnings = len(_warned(views))
    cells = (
        (str(len(members)), "organisations"),
        (quantity(max(view.seconds for view in views), "s"), "from start to result"),
        traffic,
        (str(warnings), "warning" if warnings == 1 else "warnings"),
    )
    return (
        '<dl class="strip">'
        + "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for value, name in cells)
        + "</dl>"
    )


def _job(views: Sequence[Summary]) -> str:
    """Say which run this was, when, and who took part as what."""
    one = views[0]
    roles = "".join(
        f"<div><b>{escape(role)}</b> {escape(', '.join(group))}</div>" for role, group in one.parties.items()
    )
    attempt = "" if one.attempt <= 1 else f' <span class="soft">attempt {one.attempt}</span>'
    rows = (
        ("Job", f"<code>{escape(one.kind)}</code> · {escape(one.mode)}"),
        ("Artefact", f"<code>{escape(one.artefact)}</code>"),
        ("Run", f"<code>{escape(one.run)}</code>{attempt}"),
        ("Started", escape(_when(min(view.started for view in views)))),
        ("Roles", roles),
        ("Told by", escape(", ".join(view.party for view in views))),
    )
    return (
        '<dl class="job">'
        + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows if value)
        + "</dl>"
    )


def _when(started: float) -> str:
    return dt.datetime.fromtimestamp(started, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _warned(views: Sequence[Summary]) -> dict[str, list[str]]:
    """Return warning → the parties whose runs gave it."""
    found: dict[str, list[str]] = {}
    for view in views:
        for text in view.warnings:
            found.setdefault(text, []).append(view.party)
    return found


def _warnings(views: Sequence[Summary]) -> str:
    """Put every warning where it cannot be missed, or nothing."""
    items = [
        f'<li><span class="soft">{escape(", ".join(parties))}</span> {escape(text)}</li>'
        for text, parties in _warned(views).items()
    ]
    if not items:
        return ""
    return f'<section class="warn"><h2>Please look at this</h2><ul>{"".join(items)}</ul></section>'


def _facts(views: Sequence[Summary]) -> str:
    """Show what each party learnt, side by side, with a picture where two sets met."""
    cards = []
    for view in views:
        rows = "".join(
            f'<tr><th scope="row">{escape(fact.name)}</th>'
            f'<td class="n">{_value(fact.value, fact.unit)}</td></tr>'
            for fact in view.facts
        )
        cards.append(
            f'<section class="card"><h3>{escape(view.party)} '
            f'<span class="soft">{escape(", ".join(view.roles))}</span></h3>'
            + (f"<table>{rows}</table>" if rows else '<p class="soft">Nothing.</p>')
            + "</section>"
        )
    picture = next(filter(None, (_overlap(view, views) for view in views)), "")
    figure = f"<figure>{picture}</figure>" if picture else ""
    return (
        f'<section><h2>What was learnt</h2><div class="{"learnt" if figure else ""}">{figure}'
        f'<div class="cards">{"".join(cards)}</div></div></section>'
    )


def _value(value: float | str, unit: str) -> str:
    if isinstance(value, str):
        return escape(f"{value} {unit}".rstrip())
    return escape(quantity(value, unit))


def _overlap(view: Summary, views: Sequence[Summary]) -> str:
    """Draw the two sets of an alignment, if this party learnt all three sizes; say so if it alone did."""
    sizes = {fact.name: fact.value for fact in view.facts if isinstance(fact.value, int)}
    sets = [(view.party, sizes[OWN])] if OWN in sizes else []
    sets += [(name.removeprefix(OTHER), size) for name, size in sizes.items() if name.startswith(OTHER)]
    shared = next((sizes[name] for name in SHARED if name in sizes), -1)
    if len(sets) != 2 or not 0 <= shared <= min(size for _, size in sets):
        return ""
    one, two = sets
    told = [other.party for other in views if any(fact.name in SHARED for fact in other.facts)]
    alone = f", told to {told[0]} alone" if len(views) > len(told) == 1 else ""
    return charts.overlap(f"Whom both know{alone}", one, two, shared, unit="ids")


def _charts(views: Sequence[Summary]) -> str:
    """Draw the pictures of the result; what several parties have alike is drawn once."""
    seen: dict[bytes, tuple[AnyChart, list[str]]] = {}
    for view in views:
        for chart in view.charts:
            seen.setdefault(msgspec.json.encode(chart), (chart, []))[1].append(view.party)
    figures = [
        f"<figure>{_drawn(chart, '' if len(parties) == len(views) else ', '.join(parties))}</figure>"
        for chart, parties in seen.values()
    ]
    if not figures:
        return ""
    return f'<section><h2>The result in pictures</h2><div class="plots">{"".join(figures)}</div></section>'


def _drawn(chart: AnyChart, who: str) -> str:
    title = f"{chart.title}, at {who}" if who else chart.title
    if isinstance(chart, Curve):
        return charts.lines(title, chart.x, dict(chart.series), x_name=chart.x_name, unit=chart.unit)
    if isinstance(chart, Bars):
        return charts.bars(title, chart.groups, dict(chart.series), unit=chart.unit)
    return charts.grid(title, chart.labels, chart.counts)


def _leaks(views: Sequence[Summary]) -> str:
    """Show the leak table by part: which role knows what afterwards, and who plays it."""
    parts: dict[str, dict[tuple[str, str], None]] = {}
    for view in views:
        for leak in view.leaks:
            parts.setdefault(leak.part, {})[leak.who, leak.what] = None
    parties: Mapping[str, Sequence[str]] = {str(role): group for role, group in views[0].parties.items()}
    rows = []
    for part, leaks in parts.items():
        rows.append(f'<tr class="part"><th scope="rowgroup" colspan="2">{escape(part)}</th></tr>')
        for who, what in leaks:
            players = escape(", ".join(parties.get(who, ())))
            rows.append(
                f'<tr><th scope="row">{escape(who)}<span class="soft">{players}</span></th>'
                f"<td>{escape(what)}</td></tr>"
            )
    return (
        "<section><h2>Who learns what</h2><p>What each role knows after the run, as it was stated before.</p>"
        + _table(("Who", "learns"), rows, "leaks")
        + "</section>"
    )


def _table(heads: Iterable[str], rows: Iterable[str], css: str = "") -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    return (
        f'<div class="wide"><table class="{css}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _merged(view: Summary) -> dict[_Key, StepTime]:
    """Add up a party's steps by number and name (a step may recur, once per stage)."""
    steps: dict[_Key, StepTime] = {}
    for step in view.steps:
        key = step.number, step.step
        known = steps.get(key, StepTime(*key, 0.0, 0, 0))
        steps[key] = StepTime(
            *key, known.seconds + step.seconds, known.sent + step.sent, known.received + step.received
        )
    return steps


def _steps(views: Sequence[Summary]) -> str:
    """Show where time and traffic went: two pictures and the table they are drawn from."""
    columns = {view.party: _merged(view) for view in views}
    keys = sorted({key for steps in columns.values() for key in steps})
    if not keys:
        return ""
    labels = [f"{number} · {name}" for number, name in keys]

    def series(party: str, pick: Callable[[StepTime], float]) -> list[float | None]:
        return [pick(step) if (step := columns[party].get(key)) else None for key in keys]

    times = {party: series(party, lambda step: step.seconds) for party in columns}
    if len(columns) > 1:
        traffic = {party: series(party, lambda step: step.sent) for party in columns}
        named = "Bytes sent in each step, by party"
    else:
        (party,) = columns
        traffic = {
            "sent": series(party, lambda step: step.sent),
            "received": series(party, lambda step: step.received),
        }
        named = "Bytes in each step"
    return (
        '<section><h2>Time and traffic</h2><div class="plots">'
        f"<figure>{charts.bars('Seconds in each step', labels, times, unit='s')}</figure>"
        f"<figure>{charts.bars(named, labels, traffic, unit='B')}</figure></div>"
        f"{_step_table(columns, keys)}"
        '<p class="soft">Times include waiting for peers. Bytes are payload, before encryption.</p></section>'
    )


def _step_table(columns: Mapping[str, Mapping[_Key, StepTime]], keys: Sequence[_Key]) -> str:
    """Lay out time, bytes sent and bytes received of each step, three columns a party."""
    parties = "".join(f'<th scope="colgroup" colspan="3">{escape(party)}</th>' for party in columns)
    under = "".join(f'<th scope="col" class="n">{name}</th>' for name in ("time", "sent", "received"))
    rows = []
    for number, name in keys:
        cells = [f'<td class="n">{number}</td><th scope="row">{escape(name)}</th>']
        for steps in columns.values():
            step = steps.get((number, name))
            values = (
                (quantity(step.seconds, "s"), quantity(step.sent, "B"), quantity(step.received, "B"))
                if step
                else ("", "", "")
            )
            cells.extend(f'<td class="n">{value}</td>' for value in values)
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        '<div class="wide"><table class="steps"><thead><tr><td colspan="2"></td>'
        f'{parties}</tr><tr><th scope="col" class="n">#</th><th scope="col">step</th>{under * len(columns)}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _files(views: Sequence[Summary]) -> str:
    """List the files that the run left, each at its owner."""
    rows = [
        f'<tr><th scope="row">{escape(view.party)}</th><td>{escape(name)}</td>'
        f"<td><code>{escape(file)}</code></td></tr>"
        for view in views
        for name, file in view.files.items()
    ]
    if not rows:
        return ""
    return f"<section><h2>Files</h2>{_table(('at', 'what', 'file'), rows)}</section>"


def _algorithms(views: Sequence[Summary]) -> str:
    """List algorithms, parameters and code paths; once where all parties agree."""
    found: dict[str, dict[str, str]] = {}
    for view in views:
        for key, value in _flat("", view.algorithms):
            found.setdefault(key, {})[view.party] = value
    rows = []
    for key, values in found.items():
        if len(set(values.values())) == 1:
            cell = escape(next(iter(values.values())))
        else:
            cell = "".join(
                f'<div><span class="soft">{escape(party)}</span> {escape(value)}</div>'
                for party, value in values.items()
            )
        rows.append(f'<tr><th scope="row">{escape(key)}</th><td>{cell}</td></tr>')
    if not rows:
        return ""
    return f"<section><h2>Algorithms and parameters</h2>{_table(('name', 'value'), rows)}</section>"


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield dotted keys and values as text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, str):
        yield prefix, value
    elif isinstance(value, (list, tuple)):
        yield prefix, ", ".join(text for inner in value for _, text in _flat("", inner))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield prefix, quantity(value)
    else:
        yield prefix, msgspec.json.encode(value).decode()


def _records(records: Sequence[RecordLine], chapters: Sequence[Sequence[Summary]]) -> str:
    """Show each signed record with its verdict, and how to come to the same verdict oneself."""
    if not records:
        own = "this result" if len(chapters) == 1 and len(chapters[0]) == 1 else "each party's result"
        return (
            f"<section><h2>The record</h2><p>The signed record lies beside {own} as <code>record.vsr</code>. "
            "Check it with</p><pre>veilsum record verify record.vsr</pre></section>"
        )
    blocks = []
    for line in records:
        jobs = f"{line.jobs:,} job{'' if line.jobs == 1 else 's'}"
        verdict = (
            f'<p class="bad">{jobs}; does not verify: {escape(line.fault)}</p>'
            if line.fault
            else f'<p class="good">{jobs}, chain OK</p>'
        )
        blocks.append(
            f'<section class="card"><h3>{escape(line.party)}</h3>{verdict}'
            f"<p><code>{escape(line.path)}</code></p>"
            f'<p class="soft">SHA-256 <code>{escape(line.digest)}</code></p>'
            f"<pre>{escape(line.command)}</pre></section>"
        )
    return (
        "<section><h2>The record</h2><p>Signed by its party, countersigned by its peers and chained to "
        "the record before it. Do not take this page's word for it: the command under each record "
        "verifies it again.</p>"
        f'<div class="cards">{"".join(blocks)}</div></section>'
    )
