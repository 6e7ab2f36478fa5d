// Rows as cards. Texts come from strangers: they only ever become text nodes.

export function element(name, { class: classes = "", text = null, ...more } = {}, ...children) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (text !== null) made.textContent = text;
  Object.assign(made, more);
  made.append(...children);
  return made;
}

// A name of a column or a value as one reads it: `color_attr` -> `color attr`.
export const words = (name) => String(name).replaceAll("_", " ");

export function thumbnail({ title, url }, alt, captioned) {
  const image = element("img", { alt, loading: "lazy", decoding: "async", src: url });
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth <= 160));
  image.addEventListener("error", () => (image.alt = `${title}: this image cannot be read`));
  const figure = element("figure", {}, image);
  if (captioned) figure.append(element("figcaption", { class: title, text: title }));
  return figure;
}

const GOOD = new Set(["right", "kept"]), BAD = new Set(["wrong"]);
const QUIET = new Set(["caption", "meaning", "seed", "prompt", "caption_id", "winner_sample", "loser_sample", "source", "judge_answer", "threshold"]);

function tag(name, value) {
  const text = name === "id" ? `#${value}` : typeof value === "number" ? `${words(name)} ${value}` : words(value);
  const tone = name !== "verdict" ? "" : GOOD.has(value) ? "good" : BAD.has(value) || value !== "not judged" ? "bad" : "";
  return element("span", { class: tone, text, title: `${words(name)}: ${value}` });
}

// A card of a row of `/api/rows`; `open` is called when it is chosen.
export function card(row, open) {
  const { fields, images } = row, made = element("button", { type: "button", class: "card" });
  const caption = fields.caption ?? "(no caption)";
  if (images.length) made.append(element("span", { class: "images" }, ...images.map((each) => thumbnail(each, caption, images.length > 1))));
  const tags = Object.entries(fields).filter(([name]) => !QUIET.has(name)).map(([name, value]) => tag(name, value));
  made.append(
    element("span", { class: "words" }, element("span", { class: "caption", text: caption }), element("span", { class: "tags" }, ...tags)),
  );
  made.dataset.row = row.row;
  made.addEventListener("click", () => open(row));
  return made;
}
