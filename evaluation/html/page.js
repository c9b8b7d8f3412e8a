// The page as a whole: language, light or dark, the keyboard, and the state in the address.

/** Change the state and draw what depends on it; ``scroll`` goes to the questions. */
function change(values, scroll = false) {
  const language = state.language;
  Object.assign(state, values);
  remember();
  if (state.language !== language) renderAll();
  else {
    renderScores();
    renderQuestions();
  }
  if (scroll) byId("questions").scrollIntoView({ block: "start" });
}

/** The state is in the address (after "#"), so that it can be kept and sent. */
function remember() {
  const kept = Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]);
  history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
}

/** Take over what the address says, as far as this page knows it. */
function recall() {
  const values = new URLSearchParams(location.hash.slice(1));
  const known = (property) => CONTENT.questions.map((question) => question[property]);
  const allowed = {
    language: Object.keys(CONTENT.texts),
    theme: ["auto", "light", "dark"],
    show: SHOWS,
    type: known("type"),
    spoken: known("language"),
    source: known("source"),
    sort: SORTS,
  };
  Object.assign(state, DEFAULTS);
  for (const [key, options] of Object.entries(allowed)) if (options.includes(values.get(key))) state[key] = values.get(key);
  state.query = values.get("query") ?? "";
}

function renderAll() {
  document.documentElement.lang = state.language === "zh" ? "zh-CN" : "en";
  document.title = `${CONTENT.title} · ${t(CONTENT.kind)}`;
  byId("kind").textContent = t(CONTENT.kind);
  byId("title").textContent = CONTENT.title;
  byId("subtitle").textContent = CONTENT.subtitle;
  byId("language").textContent = t("switch_language");
  byId("language").title = t("switch_language_hint");
  byId("keys").title = t("keys");
  byId("keys").setAttribute("aria-label", t("keys"));
  renderTheme();
  renderSummary();
  renderScores();
  renderCaptions();
  renderCorruptions();
  renderQuestions();
  renderAbout();
  if (byId("detail").open) openQuestion(opened);
}

function renderTheme() {
  document.documentElement.dataset.theme = state.theme;
  const name = { auto: "auto", light: "sun", dark: "moon" }[state.theme];
  byId("theme").replaceChildren(icon("", ICONS[name]));
  byId("theme").title = t(`theme_${state.theme}`);
  byId("theme").setAttribute("aria-label", t(`theme_${state.theme}`));
}

function renderAbout() {
  byId("about").firstElementChild.textContent = t("about");
  const words = (value, between = "\n") => {
    if (typeof value === "number") return String(Number(value.toPrecision(4)));
    if (typeof value !== "object" || value === null || Array.isArray(value)) return String(value);
    return Object.entries(value).map(([key, inner]) => `${key}: ${words(inner, ", ")}`).join(between);
  };
  const name = (key) => key.replace(/^\w+/, (found) => t(`d_${found}`)); // "data A": the word, then the run
  const lines = CONTENT.details.flatMap(([key, value]) => [el("dt", {}, name(key)), outside("dd", {}, words(value))]);
  byId("about").lastElementChild.replaceChildren(...lines);
}

function nextTheme() {
  state.theme = { auto: "light", light: "dark", dark: "auto" }[state.theme];
  remember();
  renderTheme();
}

const nextLanguage = () => change({ language: state.language === "en" ? "zh" : "en" });

// ------------------------------------------------------------------------------------------ keyboard

const toggle = (name) => change({ show: state.show === name ? "all" : name });

const KEYS = {
  "/": () => SEARCH.focus(),
  j: () => moveFocus(1),
  k: () => moveFocus(-1),
  ...(COMPARES ? {} : { w: () => toggle("wrong"), b: () => toggle("blind") }),
  r: () => change(FILTERS_OFF),
  l: nextLanguage,
  d: nextTheme,
  "?": showHelp,
};

/** The card before or after the one that has the focus. */
function moveFocus(by) {
  const cards = byId("grid").children;
  const now = [...cards].indexOf(document.activeElement);
  const next = now < 0 ? 0 : now + by;
  if (next >= drawn) drawMore();
  cards[Math.max(next, 0)]?.focus();
}

function showHelp() {
  const lines = [
    ["/", "key_search"],
    ["J K  ← →", "key_move"],
    ["Enter", "key_open"],
    ...(COMPARES ? [] : [["W", "key_wrong"], ["B", "key_blind"]]),
    ["R", "key_reset"],
    ["L", "key_language"],
    ["D", "key_theme"],
    ["Esc", "key_close"],
  ];
  const close = el("button", { type: "button", class: "button", onclick: () => byId("help").close() }, t("close"));
  const rows = lines.flatMap(([key, text]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, t(text))]);
  byId("help").replaceChildren(el("h2", {}, t("keys").replace(/ ?[（(].*/, "")), el("dl", {}, ...rows), close);
  byId("help").showModal();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const typing = event.target === SEARCH || event.target.tagName === "SELECT";
  if (typing) {
    if (event.key === "Escape" && event.target === SEARCH) SEARCH.blur();
    return;
  }
  if (byId("help").open) return;
  const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (byId("detail").open) {
    const by = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1 }[letter];
    if (by) step(by);
    else if (!["l", "d"].includes(letter)) return;
    else KEYS[letter]();
  } else if (byId("grid").contains(event.target) && ["ArrowRight", "ArrowLeft"].includes(letter)) {
    moveFocus(letter === "ArrowRight" ? 1 : -1);
  } else if (Object.hasOwn(KEYS, letter)) KEYS[letter]();
  else return;
  event.preventDefault();
}

document.addEventListener("keydown", pressed);
window.addEventListener("hashchange", () => {
  recall();
  renderAll();
});
byId("keys").addEventListener("click", showHelp);
byId("theme").addEventListener("click", nextTheme);
byId("language").addEventListener("click", nextLanguage);
byId("more").addEventListener("click", drawMore);
byId("detail").addEventListener("cancel", (event) => {
  event.preventDefault();
  closeQuestion();
});
for (const dialog of [byId("detail"), byId("help")]) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // outside of what is in it
  });
}
new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && drawMore(), { rootMargin: "600px" }).observe(byId("more"));
recall();
renderAll();
