"use strict";
// The content, the state of the page, and the elements. Texts from outside become text nodes and nothing else.

const CONTENT = JSON.parse(document.getElementById("content").textContent);
const COMPARES = CONTENT.kind === "comparison";
const DEFAULTS = {
  language: navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en",
  theme: "auto",
  show: "all",
  type: "",
  spoken: "", // the language of the questions
  source: "",
  sort: "mixed",
  query: "",
};
const state = { ...DEFAULTS };

const byId = (id) => document.getElementById(id);

/** A text of the page in the chosen language, its braces filled in. */
function t(key, values = {}) {
  const text = CONTENT.texts[state.language][key];
  return text === undefined ? key : text.replace(/\{(\w+)\}/g, (all, name) => (name in values ? values[name] : all));
}

/** The name of a question type or a language; one that has no translation is shown as it is. */
function named(prefix, value) {
  const texts = CONTENT.texts[state.language];
  return Object.hasOwn(texts, prefix + value) ? texts[prefix + value] : value;
}

/** An element with attributes, listeners ("onclick") and children; null children are left out. */
function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Text from outside: its direction cannot reach what is around it. */
const outside = (name, attributes, text) => el(name, { dir: "auto", ...attributes }, text);

/** An element of a drawing. */
function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Boxes over a picture of the content: {"reference": [[left, top, right, bottom], ...], ...} in thousandths. */
function boxesOver(index, boxes) {
  const { size } = CONTENT.pictures[index];
  if (!size || !Object.values(boxes).some((some) => some.length)) return null;
  const [width, height] = size;
  // The part that the tower was shown (dataset/boxes.py, view_of): CLIP crops a square from the middle.
  const side = CONTENT.crop ? (CONTENT.crop[1] * Math.min(width, height)) / CONTENT.crop[0] : 0;
  const [w, h] = side ? [side, side] : [width, height];
  const [x, y] = [(width - w) / 2, (height - h) / 2];
  const drawing = svg("svg", { class: "boxes", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  for (const [kind, some] of Object.entries(boxes)) {
    for (const [left, top, right, bottom] of some) {
      drawing.append(
        svg("rect", {
          class: `box-${kind}`,
          x: x + (left / 1000) * w,
          y: y + (top / 1000) * h,
          width: ((right - left) / 1000) * w,
          height: ((bottom - top) / 1000) * h,
          "vector-effect": "non-scaling-stroke",
        }),
      );
    }
  }
  return drawing;
}

/** A drawing of the page's own, from path data. */
function icon(name, path) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  made.setAttribute("viewBox", "0 0 16 16");
  made.setAttribute("class", `icon ${name}`);
  made.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path);
  made.append(line);
  return made;
}

const ICONS = {
  right: "M3 8.5l3.2 3.2L13 4.8",
  wrong: "M4 4l8 8M12 4l-8 8",
  partly: "M2.5 9c1.8-3.4 3.6-3.4 5.5-1s3.7 2.4 5.5-1",
  unscored: "M5.5 8h5",
  unknown: "M8 3.6v5.6M8 12.2v.2",
  sun: "M8 5.2a2.8 2.8 0 100 5.6 2.8 2.8 0 000-5.6zM8 1v1.6M8 13.4V15M1 8h1.6M13.4 8H15M3 3l1.2 1.2M11.8 11.8L13 13M13 3l-1.2 1.2M4.2 11.8L3 13",
  moon: "M13.4 9.8A5.8 5.8 0 016.2 2.6a5.8 5.8 0 107.2 7.2z",
  auto: "M8 2a6 6 0 100 12A6 6 0 008 2zM8 2v12M8 5l5 1M8 8h6M8 11h5",
  majority: "M3.5 3.5h9v9h-9z",
  question_only: "M8 2.5l5.8 10.6H2.2z",
  other_picture: "M8 2.8a5.2 5.2 0 100 10.4A5.2 5.2 0 008 2.8z",
  no_picture: "M8 1.8L14.2 8 8 14.2 1.8 8z",
};

/** "right", "wrong", "partly" or "unscored". Half a score counts as right where two kinds are asked for. */
function grade(score) {
  if (score === null) return "unscored";
  if (score === 1) return "right";
  return score === 0 ? "wrong" : "partly";
}

const isRight = (score) => score !== null && score >= 0.5;

/** The mark of a score: a sign and a colour, with the word for those who see neither. */
function mark(score, words = true) {
  const found = grade(score);
  const label = t(found, { score: score === null ? "" : score.toFixed(2) });
  return el("span", { class: `mark ${found}`, title: label }, icon("", ICONS[found]), words ? label : hidden(label));
}

const hidden = (text) => el("span", { class: "hidden" }, text);

const number = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
const count = (value) => value.toLocaleString("en-US");

/** The file's name without its folders. */
const baseName = (path) => path.split(/[\\/]/).pop() || path;

/** A picture of the content by its number, or why it is not shown. */
function picture(index) {
  const found = CONTENT.pictures[index];
  if (found.src && found.src.startsWith("data:image/webp;base64,")) {
    return el("img", { src: found.src, alt: baseName(found.name), loading: "lazy", decoding: "async" });
  }
  return outside("span", { class: "absent" }, found.problem ? t("unreadable", { reason: found.problem }) : t("left_out"));
}
