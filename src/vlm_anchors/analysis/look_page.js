"use strict";
// Moves what the page shows. Everything it shows is in the page: no request is ever made.
const data = JSON.parse(document.getElementById("data").textContent);
const [rows, columns] = data.grid;
const cells = rows * columns;
const state = { layer: Math.floor(data.layers.length / 2), word: { part: "answer", at: 0 }, same: false };

// Inferno in eight steps: even in lightness, so that it reads in grey as well.
const HEAT = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];

function heat(value) {
  const place = Math.min(Math.max(value, 0), 1) * (HEAT.length - 1);
  const low = Math.min(Math.floor(place), HEAT.length - 2);
  return HEAT[low].map((one, i) => Math.round(one + (place - low) * (HEAT[low + 1][i] - one)));
}

function bytes(text) {
  const raw = atob(text);
  const out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

for (const method of data.methods) method.maps = bytes(method.maps);

// The row of a method's maps that belongs to the chosen word; null where this method's answer is shorter.
function rowOf(method, word) {
  if (word.part === "question") return word.at < method.first ? word.at : null;
  return word.at < method.words.length ? method.first + word.at : null;
}

function percent(value) { return (100 * value).toFixed(1) + " %"; }

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function wordButtons(where, words, part) {
  words.forEach((word, at) => {
    const button = element("button", word.trim() || "␣");
    button.type = "button";
    button.dataset.part = part;
    button.dataset.at = at;
    button.addEventListener("click", () => { state.word = { part, at }; show(); });
    where.append(button, " ");
  });
}

const picture = new Image();
const cards = data.methods.map((method) => {
  const card = element("section", undefined, "look");
  const canvas = element("canvas");
  canvas.width = 512;
  canvas.height = Math.round(512 * data.size[1] / data.size[0]);
  canvas.setAttribute("role", "img");
  const caption = element("p", "", "caption");
  caption.setAttribute("aria-live", "polite");
  const words = element("p", undefined, "words");
  wordButtons(words, method.words, "answer");
  card.append(element("h3", method.name), canvas, caption, words);
  document.getElementById("methods").append(card);
  return { method, canvas, caption };
});
const offered = Math.min(...data.methods.map((method) => method.first));
wordButtons(document.getElementById("asked"), data.asked.slice(0, offered), "question");

function draw(card) {
  const { method, canvas, caption } = card;
  const pen = canvas.getContext("2d");
  const row = rowOf(method, state.word);
  pen.imageSmoothingEnabled = data.size[0] > 200;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.filter = row === null ? "none" : "grayscale(1)";
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  pen.filter = "none";
  if (row === null) {
    caption.textContent = "This answer has no such word.";
    return;
  }
  const start = (row * data.layers.length + state.layer) * cells;
  const peak = method.peaks[row][state.layer];
  const top = state.same ? Math.max(...method.peaks[row]) : peak;
  const width = canvas.width / columns, height = canvas.height / rows;
  for (let i = 0; i < cells; i++) {
    const value = Math.sqrt(method.maps[start + i] / 255 * peak / Math.max(top, 1e-12));
    pen.fillStyle = `rgba(${heat(value).join(",")},${0.55 + 0.2 * value})`;
    const x = (i % columns) * width, y = Math.floor(i / columns) * height;
    pen.fillRect(x, y, width + 0.5, height + 0.5);
  }
  const words = state.word.part === "question" ? data.asked : method.words;
  const word = (words[state.word.at] || "").trim();
  const told = `“${word}” in layer ${data.layers[state.layer]}: ${percent(method.visual[row][state.layer])} of its attention ` +
    `on the image, at most ${percent(peak)} on one patch.`;
  caption.textContent = told;
  canvas.setAttribute("aria-label", told);
}

function table() {
  const shown = document.getElementById("shares");
  const head = element("tr");
  head.append(element("th", "layer"));
  for (const method of data.methods) {
    for (const name of ["image", "before it", "entropy"]) head.append(element("th", `${method.name}: ${name}`));
  }
  shown.replaceChildren(head);
  data.layers.forEach((layer, at) => {
    const line = element("tr", undefined, at === state.layer ? "now" : "");
    line.append(element("td", layer, "number"));
    for (const method of data.methods) {
      const row = rowOf(method, state.word);
      const share = element("td", undefined, "number");
      if (row !== null) {
        const bar = element("span", undefined, "bar");
        bar.style.width = (4 * method.visual[row][at]).toFixed(2) + "rem";
        share.append(bar, percent(method.visual[row][at]));
      }
      line.append(share, element("td", row === null ? "" : percent(method.system[row][at]), "number"),
        element("td", row === null ? "" : method.entropy[row][at].toFixed(2), "number"));
    }
    shown.append(line);
  });
}

function show() {
  document.getElementById("layer-shown").textContent = `${data.layers[state.layer]} of ${data.layers[data.layers.length - 1]}`;
  for (const button of document.querySelectorAll(".words button")) {
    const chosen = button.dataset.part === state.word.part && Number(button.dataset.at) === state.word.at;
    button.setAttribute("aria-pressed", chosen);
  }
  cards.forEach(draw);
  table();
  const where = state.word.part === "question" ? "of the question" : "of the answer";
  document.getElementById("table-title").textContent = `Word ${state.word.at + 1} ${where}, all layers:`;
}

const slider = document.getElementById("layer");
slider.value = state.layer;
slider.addEventListener("input", () => { state.layer = Number(slider.value); show(); });
document.getElementById("same").addEventListener("change", (event) => { state.same = event.target.checked; show(); });
picture.onload = show;
picture.src = data.image;
