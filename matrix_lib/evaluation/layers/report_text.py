"""What the report of an analysis says, and how it looks. `@name` in the style is a colour of `io.drawing.INK`."""

__all__ = ["FRAME", "METHOD", "STYLE", "TITLES", "WHAT"]

# kind: (heading, short name)
TITLES = {"v2t": ("Words (video to text)", "words"), "v2v": ("Instances (video to video)", "instances")}
WHAT = {
    "v2t": "How much the place of an instance, and the place of an interaction, look at the words that name them.",
    "v2v": "How much an instance's tokens of the first frame look at the same instance in all frames.",
}
METHOD = """
<p><b>AAS</b>, the attention alignment score of a map A with an entity's mask m on the token grid, is the sum of A·m
over the clip (MATRIX, arXiv 2510.07310). <b>Words</b>: A is the softmax probability of the entity's tokens, for every
video token. <b>Instances</b>: A is the mean softmax row of the tokens inside the mask of the first frame that shows the
instance. A verb's mask is the union of its subject's and object's. Softmax runs over the whole row; heads are averaged
unless they are shown apart; a run's score is the mean over its steps and entities.</p>
<p><b>Share</b> divides AAS by the sum of A; <b>above chance</b> subtracts the mask's share of the area, which is what a
flat map would reach. So layers compare, and clips with large and small masks.</p>
<p><b>Influential</b> layers rank high in each run and on average: the ranks by frequency in the top and by mean score
are added. <b>Dominant</b> layers separate successes from failures in equal-sized sets. The interval of a separation is
a bootstrap over runs within each set; p-values come from permuting the labels, and those over all layers together from
the largest statistic of each permutation, so that the chance of naming any layer wrongly stays below the limit.</p>
<p>An <b>AUC</b> of one layer on the runs it was computed from flatters whoever picks the best; the one of layers
chosen on other runs (five folds) does not. Attention that goes with success need not be its cause.</p>
"""
FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>MATRIX layer analysis</title><style>{style}</style></head>
<body><main>
{body}
</main></body></html>
"""
STYLE = """
:root{color-scheme:dark}
*{box-sizing:border-box}
body{margin:0;background:@page;color:@soft;font:16px/1.55 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:56px 30px 90px}
h1,h2,h3,h4{color:@text;line-height:1.2;font-weight:600;margin:0}
h1{font-size:40px;letter-spacing:-.02em}
h2{font-size:26px;letter-spacing:-.01em}
h3{font-size:17px}
h4{font-size:14px;margin:0 0 4px 54px;font-weight:500}
p{margin:8px 0 0}
.eyebrow{color:@accent;font-size:13px;letter-spacing:.12em;text-transform:uppercase;margin:0 0 8px}
.lead{font-size:17px;max-width:74ch}
.quiet{color:@faint}
.about{display:flex;flex-wrap:wrap;gap:14px 40px;margin:24px 0 0}
.about dt{color:@faint;font-size:13px}
.about dd{margin:0;color:@text}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:14px;margin:34px 0 10px}
.card{background:@panel;border-radius:12px;padding:18px 20px}
.card p{margin:0;font-size:13.5px;color:@faint}
.card strong{display:block;color:@text;font-size:29px;line-height:1.25;font-weight:600;margin:4px 0}
section{margin-top:64px}
figure{margin:26px 0 0;background:@panel;border-radius:14px;padding:20px 22px 16px}
figcaption{max-width:92ch;font-size:14.5px;margin:6px 0 14px;color:@soft}
section>h3{margin-top:30px}
svg{display:block;width:100%;height:auto;font-family:inherit}
.grid{display:grid;gap:18px 22px}
.two{grid-template-columns:1fr 1fr}
.three{grid-template-columns:1fr 1fr 1fr}
.legend{display:flex;gap:20px;font-size:13.5px;padding-left:64px}
.legend i{display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:7px}
.strips{display:grid;grid-template-columns:110px repeat(var(--columns),1fr);gap:8px 18px;align-items:center}
.strips p{margin:6px 0 0;font-size:13.5px;color:@faint}
.strips>div{display:grid;grid-template-columns:repeat(4,1fr);gap:5px}
.strips img{width:100%;border-radius:5px;display:block}
.success,.failure{font-size:12.5px;font-weight:500;border-radius:20px;padding:3px 11px;margin-left:8px}
.success{background:#12382f;color:#6ee7b7}
.failure{background:#43202a;color:#fda4af}
pre{background:@panel;border-radius:12px;padding:18px 20px;overflow:auto;font-size:13.5px;line-height:1.45}
pre{max-height:420px}
details{margin-top:12px;background:@panel;border-radius:12px;padding:14px 20px;overflow-x:auto}
summary{cursor:pointer;color:@text}
table{border-collapse:collapse;margin-top:14px;font-size:13.5px;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:4px 10px;text-align:right;border-bottom:1px solid @line;font-weight:400;white-space:nowrap}
tr:first-child th{color:@faint;white-space:normal;vertical-align:bottom}
tr.strong td,tr.strong th{color:@accent}
ul{margin:10px 0 0;padding-left:20px}
b{color:@text;font-weight:600}
@media (max-width:640px){.two,.three{grid-template-columns:1fr}.strips{grid-template-columns:1fr}}
"""
