"""The page of the report: one Jinja template with its style sheet; everything put into it is escaped."""

STYLE = """
:root{--ink:#1b1f24;--muted:#5a6270;--paper:#fff;--panel:#f5f6f8;--line:#d5d9e0;--accent:#0b63c5;--good:#1a7f37;
--bad:#b42318;--good-fill:#dcf3e2;--bad-fill:#fbe0dd}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ee;--muted:#a3acb9;--paper:#14171b;--panel:#1d2127;--line:#39404a;
--accent:#6cb0ff;--good:#5fd07f;--bad:#ff8f84;--good-fill:#173a22;--bad-fill:#4a1f1b}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);
background:var(--paper)}
h1{font-size:1.6rem;margin:.2em 0}h2{font-size:1.25rem;margin:2em 0 .5em;border-bottom:1px solid var(--line)}
h3{font-size:1.05rem;margin:1.4em 0 .4em}h4{font-size:.9rem;margin:0;font-weight:600}
.muted{color:var(--muted)}.bad{color:var(--bad)}.good{color:var(--good)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.5em 0}
th,td{border:1px solid var(--line);padding:.35em .6em;text-align:right}
th{background:var(--panel);font-weight:600}th[scope=row],.text{text-align:left}.gates{min-width:15rem}
td small,th small{display:block;color:var(--muted);font-weight:400}
td.rose{background:var(--good-fill)}td.fell{background:var(--bad-fill)}td.best b{text-decoration:underline}
.grid-of{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(17rem,100%),1fr))}
figure{margin:0;padding:.6rem;border:1px solid var(--line);border-radius:6px}
svg text{fill:var(--muted);font:12px system-ui,sans-serif}svg .name{fill:var(--ink);font-weight:600}
svg.chart{width:100%;height:auto;display:block}svg path{fill:none}
.grid{stroke:var(--line)}.axis{stroke:var(--muted)}.curve{stroke:var(--accent);stroke-width:1.8}
.dot,svg path.tip{fill:var(--accent)}.box{fill:var(--panel);stroke:var(--muted)}
.parent{stroke:var(--accent);stroke-width:1.6}.teacher{stroke:var(--accent);stroke-width:1.4;stroke-dasharray:5 4}
svg .label{fill:var(--ink);stroke:var(--paper);stroke-width:4px;paint-order:stroke}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--panel);padding:.6rem;border-radius:6px;margin:.3em 0;
font:13px/1.45 ui-monospace,monospace}
summary{cursor:pointer;font-weight:600}dt{font-weight:600}
"""

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ run }}: Cascade report</title>
<style>{{ style|safe }}</style>
</head>
<body>
<header>
<h1>{{ run }}</h1>
<p class="muted">{% if recipe_name %}Recipe {{ recipe_name }}; {% endif %}{{ stages|length }} stages,
{{ registry }} checkpoints in the registry.
{% if failed %}<strong class="bad">{{ failed }} {{ 'gate' if failed == 1 else 'gates' }} failed, see
Stages and gates.</strong>{% endif %}</p>
</header>
<main>
<h2 id="scores">Scores</h2>
{% if matrix.domains %}
<div class="scroll" role="region" aria-label="Scores" tabindex="0">
<p class="muted" id="scores-how">Mean score of every stage on every domain, {{ split }} split, ± standard error.
The best of a domain is underlined and says so; a change against the parent stage of
five points or more is coloured and written out.</p>
<table aria-describedby="scores-how">
<thead><tr><th scope="col" class="text">stage</th>
{% for domain in matrix.domains %}<th scope="col">{{ domain }}<small>n = {{ prompts[domain] }}</small></th>{% endfor %}
</tr></thead>
<tbody>
{% for name in matrix.stages %}
<tr><th scope="row">{{ name }}</th>
{% for cell in matrix.row(name) %}
{% if cell is none %}<td>–</td>{% else %}
<td class="{{ 'fell' if cell.fell else 'rose' if cell.rose }}{{ ' best' if cell.best }}"
><b>{{ '%.3f'|format(cell.mean) }}</b> ± {{ '%.3f'|format(cell.stderr) }}
<small>{% if cell.best %}best{{ '; ' if cell.fell or cell.rose }}{% endif %}{%
if cell.fell %}fell {{ '%.1f'|format(-100 * cell.change) }} points
{% elif cell.rose %}rose {{ '%.1f'|format(100 * cell.change) }} points{% endif %}</small></td>
{% endif %}{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% else %}<p>No stage has a score on the {{ split }} split yet.</p>{% endif %}

{% if pairs %}
<h2 id="pairs">Reward models</h2>
<div class="scroll" role="region" aria-label="Reward models" tabindex="0">
<p class="muted" id="pairs-how">Share of preference pairs whose preferred side has the higher reward, ± standard error;
ties count half. Beside it what the lengths alone would say: the longer or the shorter side, whichever was right more
often in the training pairs.</p>
<table aria-describedby="pairs-how">
<thead><tr><th scope="col" class="text">stage</th><th scope="col" class="text">split</th>
<th scope="col" class="text">domain</th><th scope="col">right</th><th scope="col">by length alone</th>
<th scope="col">above length</th><th scope="col">pairs</th></tr></thead>
<tbody>
{% for name, split, domain, score in pairs %}
<tr><th scope="row">{{ name }}</th><td class="text">{{ split }}</td><td class="text">{{ domain }}</td>
<td><b>{{ '%.3f'|format(score.accuracy.mean) }}</b> ± {{ '%.3f'|format(score.accuracy.stderr) }}</td>
<td>{{ '%.3f'|format(score.length_only.mean) }} ± {{ '%.3f'|format(score.length_only.stderr) }}
<small>{{ score.prefers }} preferred</small></td>
<td>{{ '%+.3f'|format(score.above_length.mean) }} ± {{ '%.3f'|format(score.above_length.stderr) }}</td>
<td>{{ score.accuracy.n }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}

<h2 id="stages">Stages and gates</h2>
<div class="scroll" role="region" aria-label="Stages and gates" tabindex="0">
<table>
<thead><tr><th scope="col" class="text">stage</th><th scope="col" class="text">kind</th>
<th scope="col" class="text">from</th><th scope="col" class="text">state</th>
<th scope="col">steps</th><th scope="col">time</th>
<th scope="col" class="text gates">gates</th></tr></thead>
<tbody>
{% for stage in stages %}
<tr><th scope="row">{{ stage.name }}</th><td class="text">{{ stage.kind }}</td>
<td class="text">{{ stage.parent or '–' }}</td><td class="text">{{ stage.state }}</td><td>{{ stage.steps }}</td>
<td>{{ stage.time }}</td><td class="text">
{% for gate in stage.gates %}<div class="{{ 'good' if gate.passed else 'bad' }}">{{ gate.words }}</div>
{% else %}none{% endfor %}</td></tr>
{% endfor %}
</tbody>
</table>
</div>

<h2 id="lineage">Lineage</h2>
<div class="scroll" role="region" aria-label="Lineage" tabindex="0">{{ lineage|safe }}</div>
<p class="muted">Solid: trained from. Dashed: taught by, with the domain.</p>
{% if teachers %}<ul>{% for words in teachers %}<li>{{ words }}</li>{% endfor %}</ul>{% endif %}

<h2 id="curves">Curves</h2>
{% for stage, charts in curves %}
<h3>{{ stage }}</h3>
<div class="grid-of">
{% for metric, svg in charts %}<figure><figcaption><h4>{{ metric }}</h4></figcaption>{{ svg|safe }}</figure>{% endfor %}
</div>
{% else %}<p>No stage has recorded metrics yet.</p>{% endfor %}

<h2 id="samples">Sample rollouts</h2>
{% for stage, step, note, samples in samples %}
<h3>{{ stage }}, step {{ step }}</h3>
<p class="muted">{{ note }}</p>
{% for rank, sample in samples %}
<section aria-label="{{ rank }} of {{ sample.row_id }}">
<h4>{{ rank }}: reward {{ '%.3f'|format(sample.reward) }}, {{ sample.domain }}, {{ sample.row_id }}{%
if sample.finish_reason == 'length' %}, cut off at the length limit{% endif %}</h4>
<div class="muted">Prompt</div><pre>{{ sample.prompt }}</pre>
<div class="muted">Completion</div><pre>{{ sample.completion }}</pre>
</section>
{% endfor %}
{% else %}<p>No stage has recorded rollouts yet.</p>{% endfor %}

{% if environment %}
<h2 id="environment">Environment</h2>
<div class="scroll" role="region" aria-label="Environment" tabindex="0"><table>
<thead><tr><th scope="col" class="text">what</th><th scope="col" class="text">value</th></tr></thead>
<tbody>{% for name, value in environment %}<tr><th scope="row">{{ name }}</th><td class="text">{{ value }}</td></tr>
{% endfor %}</tbody></table></div>
{% endif %}

{% if recipe %}
<h2 id="recipe">Recipe</h2>
<details><summary>The resolved recipe</summary><pre>{{ recipe }}</pre></details>
{% endif %}
</main>
</body>
</html>
"""
