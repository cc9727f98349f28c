// The page that --report writes: everything in one file, so that it opens without a network.
#pragma once

namespace reading {

/// What goes before the log's JSON, and after it.
inline constexpr const char* page_before_data = R"page(<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>infinipot</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; color: #222; background: #fff; }
header { position: sticky; top: 0; background: #fff; border-bottom: 1px solid #ccc; padding: 8px 16px; z-index: 1; }
h1 { font-size: 16px; margin: 0 0 4px; }
#controls { display: flex; gap: 12px; align-items: center; flex-wrap: wrap; }
#slider { flex: 1; min-width: 200px; }
#map { width: 100%; height: 90px; display: block; margin-top: 6px; cursor: pointer; image-rendering: pixelated; border: 1px solid #ccc; }
#text { padding: 12px 16px; max-width: 1000px; margin: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
#text p { margin: 0; content-visibility: auto; contain-intrinsic-size: auto 300px; }
#text span.unread { color: #bbb; }
#text span.recalled { border-bottom: 2px solid #e07b00; }
#text span:hover { outline: 1px solid #c00; }
#tip { position: fixed; display: none; background: #fff; border: 1px solid #888; padding: 6px 8px; font-size: 13px; pointer-events: none;
       box-shadow: 0 2px 6px #0004; z-index: 2; max-width: 300px; }
#tip canvas { display: block; margin-top: 4px; image-rendering: pixelated; border: 1px solid #ccc; }
.note { color: #666; font-size: 13px; }
</style>
<header>
  <h1 id="title"></h1>
  <div id="controls">
    <button id="back" aria-label="one distillation back">&#9664;</button>
    <input id="slider" type="range" min="0" value="0" aria-label="distillation">
    <button id="on" aria-label="one distillation on">&#9654;</button>
    <output id="where"></output>
  </div>
  <canvas id="map" title="what each layer holds (down) of the text (across); click to go there"></canvas>
  <div class="note">The bluer a token, the more layers and heads still hold it; grey ones were not read yet. The map shows the same for
  each layer (first layer on top). After a recall, what it found in the archive is underlined.</div>
</header>
<main id="text"></main>
<div id="tip"><div id="facts"></div><canvas id="holders"></canvas><div class="note">layers down, heads across</div></div>
<script type="application/json" id="data">)page";

inline constexpr const char* page_after_data = R"page(</script>
<script>
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
const words = Math.ceil(data.lanes / 32), pairs = data.layers * data.heads;
const nuc = new Float32Array(bytes(data.nuc));
const steps = data.distillations.map(d => ({
  read: d.read, recalled: new Uint32Array(bytes(d.recalled)), kept: new Uint32Array(bytes(d.kept)), masks: new Uint32Array(bytes(d.masks)),
  scored: new Uint32Array(bytes(d.scored)), scores: new Float32Array(bytes(d.scores)) }));
const $ = id => document.getElementById(id);
const escape = text => text.replace(/[&<>]/g, c => ({'&': '&amp;', '<': '&lt;', '>': '&gt;'})[c]);

// Paragraphs of at least this many tokens, which the browser lays out only when they come into view.
const least = 200, n = data.texts.length;
let html = '<p>';
for (let i = 0, begin = 0; i < n; ++i) {
  html += '<span>' + escape(data.texts[i]) + '</span>';
  if (i - begin < least || !data.texts[i].includes('\n')) continue;
  html += '</p><p>';
  begin = i + 1;
}
$('text').innerHTML = html + '</p>';
const spans = $('text').querySelectorAll('span');
spans.forEach((span, i) => { span.at = i; });

const popcount = x => { let c = 0; for (; x; x &= x - 1) ++c; return c; };
const holds = (step, k, lane) => step.masks[k * words + (lane >> 5)] >>> (lane & 31) & 1;
let shares = new Float32Array(n), shown = null, indexOf = null;

function show(number) {
  const step = steps[number], next = new Float32Array(n);
  indexOf = new Map();
  step.kept.forEach((at, k) => {
    let count = 0;
    for (let w = 0; w < words; ++w) count += popcount(step.masks[k * words + w]);
    next[at] = count / data.lanes;
    indexOf.set(at, k);
  });
  for (let i = 0; i < n; ++i) {
    if (next[i] !== shares[i]) spans[i].style.background = next[i] ? `rgba(30, 110, 230, ${0.12 + 0.68 * next[i]})` : '';
    const unread = i >= step.read;
    if (shown === null ? unread : unread !== i >= shown.read) spans[i].className = unread ? 'unread' : '';
  }
  if (shown !== null) for (const at of shown.recalled) spans[at].classList.remove('recalled');
  for (const at of step.recalled) spans[at].classList.add('recalled');
  shares = next;
  shown = step;
  const last = number === steps.length - 1, of = `${number + 1} of ${steps.length - 1}`;
  const recall = `recall, ${of}: ${step.recalled.length} tokens from the archive`;
  $('where').textContent = (last ? 'at the end' : step.recalled.length > 0 ? recall : `distillation ${of}`) +
    `: ${step.read} tokens read, ${step.kept.length} held by some head`;
  drawMap(step);
  document.body.dataset.drawn = String(spans.length);
  document.body.dataset.held = String(step.kept.length);
}

function drawMap(step) {
  const canvas = $('map'), width = Math.min(n, 1000);
  canvas.width = width;
  canvas.height = data.layers;
  const sums = new Float32Array(width * data.layers), perLayer = data.lanes / data.layers;
  step.kept.forEach((at, k) => {
    const x = Math.min(width - 1, Math.floor(at / n * width));
    for (let layer = 0; layer < data.layers; ++layer) {
      let held = 0;
      if (perLayer >= 1) for (let h = 0; h < perLayer; ++h) held += holds(step, k, layer * perLayer + h) / perLayer;
      else held = holds(step, k, 0);
      sums[layer * width + x] += held;
    }
  });
  const image = new ImageData(width, data.layers), perBin = n / width;
  for (let i = 0; i < sums.length; ++i) {
    const share = Math.min(1, Math.sqrt(sums[i] / perBin)), x = i % width;
    const unread = x * perBin >= step.read;
    image.data.set([unread ? 235 : 255 - 225 * share, unread ? 235 : 255 - 145 * share, unread ? 235 : 255 - 25 * share, 255], 4 * i);
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
}

function describe(at) {
  const step = shown, k = indexOf.get(at);
  let held = 0;
  const canvas = $('holders'), cell = Math.max(3, Math.min(12, Math.floor(180 / data.layers)));
  canvas.width = data.heads * cell;
  canvas.height = data.layers * cell;
  const context = canvas.getContext('2d');
  context.fillStyle = '#fff';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = '#1e6ee6';
  for (let pair = 0; pair < pairs; ++pair) {
    if (k === undefined || !holds(step, k, Math.floor(pair / data.headsPerLane))) continue;
    ++held;
    context.fillRect(pair % data.heads * cell, Math.floor(pair / data.heads) * cell, cell - 1, cell - 1);
  }
  const scored = step.scored.indexOf(at);
  let cap = 'not looked at';
  if (scored >= 0) {
    let better = 0;
    for (const other of step.scores) if (other > step.scores[scored]) ++better;
    cap = `${step.scores[scored].toPrecision(3)} (place ${better + 1} of ${step.scores.length})`;
  }
  $('facts').innerHTML = `<b>${escape(JSON.stringify(data.texts[at]))}</b>, token ${at}<br>held by ${held} of ${pairs} heads<br>` +
    `CaP ${cap}<br>NuC ${nuc[at] >= 0 ? nuc[at].toFixed(3) + ' nats' : 'not known'}`;
}

$('text').addEventListener('mousemove', event => {
  const at = event.target.at;
  if (at === undefined) { $('tip').style.display = 'none'; return; }
  describe(at);
  const tip = $('tip');
  tip.style.display = 'block';
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + 'px';
  tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + 'px';
});
$('text').addEventListener('mouseleave', () => { $('tip').style.display = 'none'; });
$('map').addEventListener('click', event => {
  const at = Math.floor(event.offsetX / $('map').clientWidth * n);
  spans[Math.min(at, n - 1)].scrollIntoView({block: 'center'});
});
const slider = $('slider');
slider.max = steps.length - 1;
slider.addEventListener('input', () => show(Number(slider.value)));
const move = by => { slider.value = Number(slider.value) + by; show(Number(slider.value)); };
$('back').addEventListener('click', () => move(-1));
$('on').addEventListener('click', () => move(1));
$('title').textContent = document.title = data.title;
slider.value = steps.length - 1;
if (steps.length > 0) show(steps.length - 1);
</script>
</html>
)page";

}  // namespace reading
