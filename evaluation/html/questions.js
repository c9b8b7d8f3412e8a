// The questions: which are shown, in which order, each as a card, and one with everything about it.

const FILTERS_OFF = { show: "all", type: "", spoken: "", source: "", query: "" };
const BATCH = 60;

const score = (question, i = 0) => question.answers[i].score;
const moved = (question) => (score(question, 1) ?? 0) - (score(question) ?? 0);

// What the buttons show; of a comparison, the answers are those of run A and run B.
const SHOWN = {
  all: () => true,
  wrong: (q) => score(q) !== null && !isRight(score(q)),
  right: (q) => isRight(score(q)),
  blind: (q) => isRight(score(q)) && q.answers.slice(1).some((answer) => isRight(answer.score)),
  unscored: (q) => score(q) === null,
  gained: (q) => !isRight(score(q)) && isRight(score(q, 1)),
  lost: (q) => isRight(score(q)) && !isRight(score(q, 1)),
  same: (q) => score(q) === score(q, 1),
};
const SHOWS = COMPARES ? ["all", "gained", "lost", "same"] : ["all", "wrong", "right", "blind", "unscored"];

const compareText = (a, b) => (a < b ? -1 : a > b ? 1 : 0); // by code: the same order in every browser
const ORDERS = {
  mixed: (a, b) => a.turn - b.turn,
  data: () => 0,
  score: (a, b) => (score(a) ?? 2) - (score(b) ?? 2),
  gain: (a, b) => Math.abs(moved(b)) - Math.abs(moved(a)),
  type: (a, b) => compareText(a.type, b.type),
  question: (a, b) => compareText(a.text, b.text),
  answer: (a, b) => compareText(a.answers[0].text ?? "", b.answers[0].text ?? ""),
};
const SORTS = Object.keys(ORDERS).filter((name) => name !== (COMPARES ? "score" : "gain"));

/** Give every question its turn: of each picture one, then of each the next. Pictures begin with another one each. */
function takeTurns() {
  const byPicture = new Map();
  for (const question of CONTENT.questions) {
    const key = question.pictures[0] ?? question.id;
    byPicture.set(key, [...(byPicture.get(key) ?? []), question]);
  }
  [...byPicture.values()].forEach((together, i) => together.forEach((question, j) => (question.turn = (i + j) % together.length)));
}

takeTurns();
CONTENT.questions.forEach((question) => {
  const files = question.pictures.map((i) => CONTENT.pictures[i].name);
  const answers = question.answers.map((answer) => answer.text ?? "");
  question.words = [question.id, question.text, ...question.references, ...question.options, ...answers, ...files].join("\n").toLowerCase();
});

let found = []; // the questions that are shown, in order
let drawn = 0; // how many of them have a card

/** Whether a question passes all filters except the buttons. */
function passes(question) {
  return (
    (!state.type || question.type === state.type) &&
    (!state.spoken || question.language === state.spoken) &&
    (!state.source || question.source === state.source) &&
    state.query.toLowerCase().split(/\s+/).every((word) => question.words.includes(word))
  );
}

function renderQuestions() {
  const passing = CONTENT.questions.filter(passes);
  found = passing.filter(SHOWN[state.show]).sort(ORDERS[state.sort]);
  byId("questions-title").textContent = t(COMPARES ? "changed_answers" : "questions");
  const { listed } = CONTENT.counts;
  byId("sampled").hidden = listed === CONTENT.questions.length;
  byId("sampled").textContent = t("sampled", { n: count(CONTENT.questions.length), all: count(listed) });
  renderFilters(passing);
  byId("found").replaceChildren(...foundText());
  byId("grid").replaceChildren();
  drawn = 0;
  drawMore();
}

function foundText() {
  const texts = [t("found", { n: count(found.length), all: count(CONTENT.questions.length) })];
  if (!found.length) texts[0] = t("nothing");
  const filtered = Object.entries(FILTERS_OFF).some(([key, value]) => state[key] !== value);
  if (filtered) texts.push(" ", el("button", { type: "button", class: "link", onclick: () => change(FILTERS_OFF) }, t("reset")));
  return texts;
}

function drawMore() {
  const cards = found.slice(drawn, drawn + BATCH).map((question, i) => questionCard(question, drawn + i));
  byId("grid").append(...cards);
  drawn += cards.length;
  byId("more").hidden = drawn >= found.length;
  byId("more").textContent = t("more");
}

// ------------------------------------------------------------------------------------------ filters

function renderFilters(passing) {
  const buttons = SHOWS.map((name) => [name, passing.filter(SHOWN[name]).length]).filter(
    ([name, n]) => n || name === state.show || !["unscored", "blind"].includes(name),
  );
  const chips = buttons.map(([name, n]) =>
    el(
      "button",
      {
        type: "button",
        class: `chip ${name}`,
        "aria-pressed": String(state.show === name),
        title: name === "blind" ? t("blind_help") : null,
        onclick: () => change({ show: name }),
      },
      `${t(`show_${name}`)} `,
      small(count(n)),
    ),
  );
  const selects = [
    choices("type", "type", "any_type", (value) => named("t_", value)),
    choices("spoken", "language", "any_language", (value) => named("l_", value)),
    choices("source", "source", "any_source", (value) => value),
    el(
      "select",
      { "aria-label": t("sort"), onchange: (event) => change({ sort: event.target.value }) },
      ...SORTS.map((name) => el("option", { value: name, selected: state.sort === name }, t(`sort_${name}`))),
    ),
  ];
  const focused = document.activeElement && byId("filters").contains(document.activeElement) ? document.activeElement : null;
  const position = focused ? [...byId("filters").querySelectorAll("button, select")].indexOf(focused) : -1;
  byId("filters").replaceChildren(searchBox(), el("div", { class: "chips" }, ...chips), el("div", { class: "selects" }, ...selects.filter(Boolean)));
  if (focused === SEARCH) SEARCH.focus();
  else if (position >= 0) [...byId("filters").querySelectorAll("button, select")][position]?.focus();
}

// One element for good: a new one would lose the caret and the input method.
const SEARCH = el("input", { type: "search", id: "search", autocomplete: "off", spellcheck: "false" });
SEARCH.addEventListener("input", () => change({ query: SEARCH.value }));

function searchBox() {
  SEARCH.placeholder = t("search");
  SEARCH.setAttribute("aria-label", t("search"));
  if (SEARCH.value !== state.query) SEARCH.value = state.query;
  return SEARCH;
}

/** A list of the values that a field has, or null where all questions have the same. */
function choices(field, property, any, words) {
  const values = [...new Set(CONTENT.questions.map((question) => question[property]))];
  if (values.length < 2) return null;
  const options = values.map((value) => el("option", { value, selected: state[field] === value }, words(value)));
  return el(
    "select",
    { "aria-label": t(any), class: state[field] ? "set" : "", onchange: (event) => change({ [field]: event.target.value }) },
    el("option", { value: "" }, t(any)),
    ...options,
  );
}

// ------------------------------------------------------------------------------------------ cards

const answerLabels = () => CONTENT.answers.map((name) => t({ model: "model", other_picture: "other_short", no_picture: "none_short", a: "run_a", b: "run_b" }[name]));

function questionCard(question, position) {
  const labels = answerLabels();
  const shown = question.answers.map((answer, i) => [labels[i], answer, i]).filter(([, answer, i]) => i === 0 || COMPARES || answer.text !== null);
  const lines = [...shown.slice(0, COMPARES ? 2 : 1), [t("reference"), { text: referenceText(question), score: undefined }, -1], ...shown.slice(COMPARES ? 2 : 1)];
  return el(
    "button",
    { type: "button", class: `question ${COMPARES ? "" : grade(score(question))}`, onclick: () => openQuestion(position) },
    pictureFrame(question),
    el(
      "span",
      { class: "body" },
      outside("span", { class: "asked", lang: question.language }, question.text),
      question.problem ? outside("span", { class: "low" }, t("not_asked", { reason: question.problem })) : null,
      el("span", { class: "answers" }, ...lines.flatMap(([label, answer, i]) => answerLine(label, answer, i, question))),
      el(
        "span",
        { class: "tags" },
        el("span", { class: "tag" }, named("t_", question.type)),
        !COMPARES && SHOWN.blind(question) ? el("span", { class: "tag blind" }, t("blind")) : null,
      ),
    ),
  );
}

const referenceText = (question) => [...new Set(question.references)].join(" · ");

function pictureFrame(question) {
  const frame = el("span", { class: `frame ${question.pictures.length > 1 ? "several" : ""}` });
  frame.append(...question.pictures.slice(0, 4).map(picture));
  const drawing = question.pictures.length === 1 ? boxesOver(question.pictures[0], question.boxes) : null;
  if (drawing) frame.append(drawing);
  if (!question.pictures.length) frame.append(el("span", { class: "absent" }, t("text_only")));
  if (!COMPARES) frame.append(mark(score(question), false));
  return frame;
}

function answerLine(label, answer, i, question) {
  const text = answer.text === null ? t("no_answer") : answer.text || t("empty_answer");
  const words = outside("span", { class: `text ${answer.text ? "" : "muted"}`, lang: question.language }, text);
  const graded = answer.score === undefined || answer.score === null ? null : mark(answer.score, false);
  return [el("span", { class: "label" }, label), el("span", { class: `said ${i === 0 || (COMPARES && i === 1) ? "own" : ""}` }, words, graded)];
}

// ------------------------------------------------------------------------------------------ one question

let opened = -1; // position in ``found``

function openQuestion(position) {
  opened = position;
  byId("detail").replaceChildren(...detail(found[position]));
  if (!byId("detail").open) byId("detail").showModal();
  byId("detail").scrollTop = 0;
}

function step(by) {
  const next = opened + by;
  if (next < 0 || next >= found.length) return;
  while (next >= drawn) drawMore();
  openQuestion(next);
}

function closeQuestion() {
  byId("detail").close();
  byId("grid").children[opened]?.focus();
}

function detail(question) {
  const button = (name, action, disabled) => el("button", { type: "button", class: "button", onclick: action, disabled }, t(name));
  const bar = el(
    "div",
    { class: "bar-top" },
    button("previous", () => step(-1), opened <= 0),
    button("next", () => step(1), opened >= found.length - 1),
    el("span", { class: "muted" }, t("position", { n: count(opened + 1), all: count(found.length) })),
    button("close", closeQuestion, false),
  );
  return [bar, el("div", { class: "columns" }, detailPictures(question), detailWords(question))];
}

function detailPictures(question) {
  const figures = question.pictures.map((i, position) =>
    el(
      "figure",
      {},
      el("span", { class: "frame" }, picture(i), position === question.box_picture ? boxesOver(i, question.boxes) : null),
      outside("figcaption", { title: CONTENT.pictures[i].name }, baseName(CONTENT.pictures[i].name)),
    ),
  );
  const kinds = Object.keys(question.boxes).filter((kind) => question.boxes[kind].length);
  if (kinds.length) figures.push(el("p", { class: "box-legend" }, ...kinds.map((kind) => el("span", { class: `key box-${kind}` }, t(`box_${kind}`)))));
  if (!figures.length) figures.push(el("figure", {}, el("span", { class: "frame" }, el("span", { class: "absent" }, t("text_only")))));
  return el("div", { class: "figures" }, ...figures);
}

function detailWords(question) {
  const labels = answerLabels();
  const lines = question.answers
    .map((answer, i) => [labels[i], answer, i])
    .filter(([, answer, i]) => i === 0 || COMPARES || answer.text !== null)
    .map(([label, answer, i]) => detailLine(label, answer, i, question));
  lines.splice(COMPARES ? 2 : 1, 0, referencesLine(question));
  for (const [name, text] of Object.entries(question.fitted)) {
    lines.push(el("div", { class: "line" }, el("dt", {}, t(`${name}_short`)), el("dd", {}, outside("span", { class: "text" }, text))));
  }
  const tags = [named("t_", question.type), named("l_", question.language), question.source].map((text) => outside("span", { class: "tag" }, text));
  if (!COMPARES && SHOWN.blind(question)) tags.push(el("span", { class: "tag blind" }, t("blind")));
  return el(
    "div",
    { class: "words" },
    outside("h2", { lang: question.language, tabindex: "-1", autofocus: true }, question.text),
    el("p", { class: "tags" }, ...tags, outside("span", { class: "muted id" }, question.id)),
    question.problem ? outside("p", { class: "low" }, t("not_asked", { reason: question.problem })) : null,
    question.options.length ? el("p", { class: "muted" }, `${t("options")}: `, outside("bdi", {}, question.options.join(" · "))) : null,
    el("dl", { class: "lines" }, ...lines),
    siblings(question),
  );
}

function detailLine(label, answer, i, question) {
  const text = answer.text === null ? t("no_answer") : answer.text || t("empty_answer");
  const own = i === 0 || (COMPARES && i === 1);
  return el(
    "div",
    { class: `line ${own ? "own" : ""}` },
    el("dt", {}, label),
    el(
      "dd",
      {},
      ...answer.pictures.map((index) => el("span", { class: "frame small" }, picture(index))),
      outside("span", { class: `text ${answer.text ? "" : "muted"}`, lang: question.language }, text),
      answer.score === null ? (i === 0 && answer.text !== null ? mark(null) : null) : mark(answer.score),
    ),
  );
}

function referencesLine(question) {
  const times = new Map();
  for (const text of question.references) times.set(text, (times.get(text) || 0) + 1);
  const texts = [...times].map(([text, n]) => el("li", {}, outside("bdi", { lang: question.language }, text), n > 1 ? small(` × ${n}`) : null));
  return el("div", { class: "line" }, el("dt", {}, t("reference")), el("dd", {}, el("ul", { class: "references" }, ...texts)));
}

/** The other questions about the first picture, each a way to it. */
function siblings(question) {
  const first = question.pictures[0];
  const others = CONTENT.questions.filter((other) => other !== question && other.pictures[0] === first && first !== undefined);
  if (!others.length) return null;
  const go = (other) => () => {
    if (!found.includes(other)) change(FILTERS_OFF);
    const position = found.indexOf(other);
    while (position >= drawn) drawMore();
    openQuestion(position);
  };
  const items = others.map((other) =>
    el(
      "li",
      {},
      el(
        "button",
        { type: "button", onclick: go(other) },
        mark(score(other, COMPARES ? 1 : 0), false),
        outside("span", { lang: other.language }, other.text),
        outside("b", { lang: other.language }, other.answers[COMPARES ? 1 : 0].text ?? ""),
      ),
    ),
  );
  return el("details", { open: others.length <= 12 }, el("summary", {}, `${t("same_picture")} (${others.length})`), el("ul", { class: "siblings" }, ...items));
}
