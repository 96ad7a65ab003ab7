"""The demo's page: one HTML file with everything inside, for light and dark, without a network."""

import html

from ...document import INK, document, png, svg
from .cases import METHODS, Case, DemoQuestion, Reply
from .figures import COLOURS, NAMES, figure_of_shares

STYLE = """
:root { --plain: %(none)s; --clva: %(clva)s; }
@media (prefers-color-scheme: dark) { :root { --plain: #4cb1ea; --clva: #ff8b3d; } }
.card { display: grid; grid-template-columns: 13rem 1fr; gap: 1.4rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .8rem; padding: 1.2rem; margin: 1.2rem 0; }
.card > div { min-width: 0; }
.card img { width: 100%%; image-rendering: pixelated; border-radius: .4rem; }
.card svg { width: 100%%; height: auto; max-width: 34rem; }
.question { font-weight: 600; margin: 0; } .question + p { margin: 0 0 .3rem; }
table { width: 100%%; max-width: 44rem; margin: 0 0 1rem; }
.none { color: var(--plain); font-weight: 600; } .clva { color: var(--clva); font-weight: 600; }
.right { color: var(--good); } .wrong { color: var(--bad); } .right, .wrong { white-space: nowrap; }
.bar { display: inline-block; width: 7rem; height: .7rem; position: relative; margin-right: .5rem;
  background: linear-gradient(to right, transparent 49.5%%, var(--soft) 49.5%% 50.5%%, transparent 50.5%%); }
.bar i { position: absolute; top: 0; height: 100%%; background: currentColor; opacity: .75; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
pre code { display: block; padding-left: 1.2rem; text-indent: -1.2rem; }
@media (max-width: 44rem) { .card { grid-template-columns: 1fr; } .card img { max-width: 16rem; } .bar { display: none; } }
"""


def write_page(cases: list[Case], verdict: list[str], commands: list[str], model: str) -> str:
    """The page as text.

    Args:
        verdict: Sentences on what came out;.
        commands: What to type next.
    """
    style = STYLE % COLOURS
    widest = max((abs(r.margin) for c in cases for a in c.asked for r in a.replies.values() if r.margin), default=1.0)
    cards = "\n".join(_card(case, widest) for case in cases)
    sentences = "\n".join(f"<p>{html.escape(sentence)}</p>" for sentence in verdict)
    typed = "".join(f"<code>{html.escape(command)}</code>" for command in commands)
    body = f"""<h1>Does the model look, or does it guess?</h1>
<p class="lead">A vision-language model answers questions about an image. Sometimes it answers from habit instead: where
there is a fork there is usually a table, so it says that it sees one.</p>
<p>Below are three drawn scenes that the model <b>{html.escape(model)}</b> has not seen in training. About each we ask for
one object that is there, and for one that is not there but in photographs usually stands beside what is. Each
question goes to the <span class="none">plain</span> model and to the same model with
<span class="clva">CLVA</span>, a published method that, while the model runs, strengthens the attention
which its deeper layers pay to parts of the image that its middle layers found important.</p>
{cards}
<h2>What came out</h2>
{sentences}
<h2>How to read it</h2>
<p><b>yes − no</b> is the model's inclination before its first word: the logit of “yes” less the logit of “no”. Right of
the middle it leans to yes, left of it to no; the further, the surer.</p>
<p><b>Attention on the image</b>: of all the attention that the words of the question pay in a decoder layer, the share
that lands on the image; the rest goes to other words. CLVA acts on the layers after the middle one; where the
lines lie on each other it changed nothing.</p>
<h2>What to type next</h2>
<pre>{typed}</pre>"""
    return document("vlm-anchors: a first look", body, style)


def _card(case: Case, widest: float) -> str:
    there = ", ".join(f"{count} × {name}" if count > 1 else name for name, count in case.scene.counts.items())
    questions = "\n".join(_question(asked, widest) for asked in case.asked)
    chart = svg(figure_of_shares(case, INK))
    for method, colour in COLOURS.items():
        chart = chart.replace(colour, f"var(--{'plain' if method == 'none' else method})")
    return f"""<section class="card">
<div><img alt="{html.escape(case.name)}: {html.escape(there)}" src="{png(case.image)}">
<p class="soft">In it: {html.escape(there)}.</p></div>
<div>{questions}
<p class="soft">Share of the attention that lands on the image, layer by layer:</p>
{chart}</div>
</section>"""


def _question(asked: DemoQuestion, widest: float) -> str:
    truth = "It is there." if asked.present else "It is not there, but often is beside what is."
    rows = "\n".join(_row(asked, method, asked.replies[method], widest) for method in METHODS)
    return f"""<p class="question">{html.escape(asked.question)}</p>
<p class="soft">{truth}</p>
<table><tr><th></th><th>answer</th><th></th><th>no ← yes − no → yes</th><th>seconds</th></tr>
{rows}</table>"""


def _row(asked: DemoQuestion, method: str, reply: Reply, widest: float) -> str:
    verdict = "right" if asked.right(method) else "wrong"
    return (
        f'<tr><td class="{method}">{NAMES[method]}</td><td>{html.escape(reply.answer.text) or "(nothing)"}</td>'
        f'<td class="{verdict}">{"✓" if verdict == "right" else "✗"} {verdict}</td>'
        f'<td class="number {method}">{_bar(reply.margin, widest)}</td>'
        f'<td class="number">{reply.seconds:.3f}</td></tr>'
    )


def _bar(margin: float | None, widest: float) -> str:
    if margin is None:
        return ""
    width = 50 * abs(margin) / widest
    left = 50 if margin >= 0 else 50 - width
    return f'<span class="bar"><i style="left:{left:.1f}%;width:{width:.1f}%"></i></span>{margin:+.2f}'
