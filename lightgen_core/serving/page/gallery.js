import { MaskedCanvas, fit } from "./canvas.js";

const at = (id) => document.getElementById(id);
const number = (id) => Number(at(id).value);
const student = await (await fetch("student")).json();

at("name").textContent = student.name;
at("facts").textContent =
  `Trained for ${student.width} x ${student.height} px, in tokens of ${student.side} x ${student.side} px. ` +
  "An image depends on prompt, seed, steps, guidance and size alone.";
at("key-field").hidden = !student.key;
at("count").max = student.max_images;
at("steps").value = student.steps;
at("guidance").value = student.guidance_scale;
for (const length of ["width", "height"]) Object.assign(at(length), { min: student.side, step: student.side, value: student[length] });
Object.assign(at("brush"), { max: 4 * student.side, value: student.side / 2 });
document.title = student.name;

const editor = new MaskedCanvas(at("canvas"), student.side, (shown) => {
  at("desk").hidden = false;
  at("size").textContent = `${shown.image.width} x ${shown.image.height} px; ${shown.marked.size} of ${shown.rows * shown.columns} tokens marked`;
  at("redraw").disabled = shown.marked.size === 0;
  at("undo").disabled = shown.history.length === 0;
  at("save").href = shown.image.toDataURL("image/png");
  const room = shown.image.width * shown.image.height + student.side * Math.max(shown.image.width, shown.image.height);
  for (const button of document.querySelectorAll(".extend")) button.disabled = room > student.max_pixels;
});
editor.brush = number("brush");

// state: busy, done or error.
function say(text, state) {
  at("status").textContent = text;
  at("status").dataset.state = state;
}

// Ask the server; return its images, or null once the reason was said.
async function ask(path, more) {
  const body = { prompt: at("prompt").value, seed: number("seed"), steps: number("steps"), guidance_scale: number("guidance"), ...more };
  const headers = { "Content-Type": "application/json", ...(student.key && { Authorization: `Bearer ${at("key").value}` }) };
  const buttons = [at("generate"), at("next-seed"), at("redraw")], started = performance.now();
  for (const button of buttons) button.disabled = true;
  say("Sampling ...", "busy");
  try {
    const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error.message);
    const count = content.data.length === 1 ? "One image" : `${content.data.length} images`;
    say(`${count} in ${((performance.now() - started) / 1000).toFixed(1)} s`, "done");
    return content.data;
  } catch (error) {
    say(error instanceof TypeError ? "The server does not answer: has `lightgen gallery` ended?" : error.message, "error");
    return null;
  } finally {
    for (const button of buttons) button.disabled = button === at("redraw") && editor.marked.size === 0;
  }
}

async function load(base64) {
  const image = new Image();
  image.src = `data:image/png;base64,${base64}`;
  await image.decode();
  return image;
}

async function figure({ b64_json: data, seed }) {
  const image = await load(data), button = document.createElement("button"), shown = document.createElement("figure");
  image.alt = `${at("prompt").value}, seed ${seed}`;
  image.classList.toggle("small", image.naturalWidth <= 256);
  button.type = "button";
  button.title = "Change a part of this image";
  button.append(image);
  button.addEventListener("click", () => {
    editor.show(image);
    at("editor").scrollIntoView({ behavior: "smooth" });
  });
  const caption = document.createElement("figcaption");
  caption.textContent = `seed ${seed}`;
  shown.append(button, caption);
  return shown;
}

async function generate() {
  const images = await ask("v1/images/generations", { n: number("count"), size: `${number("width")}x${number("height")}` });
  if (images) at("results").replaceChildren(...(await Promise.all(images.map(figure))));
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
at("next-seed").addEventListener("click", () => {
  at("seed").value = number("seed") + number("count");
  at("ask").requestSubmit();
});
at("redraw").addEventListener("click", async () => {
  if (!at("ask").reportValidity()) return;
  const images = await ask("v1/inpaint", editor.encoded());
  if (images) editor.show(await load(images[0].b64_json));
});
at("file").addEventListener("change", async () => {
  const [file] = at("file").files;
  if (!file) return;
  try {
    const bitmap = await createImageBitmap(file);
    editor.show(fit(bitmap, student.side, student.width * student.height, student.max_pixels));
    say("", "done");
  } catch {
    say(`${file.name} is no image that this browser can read`, "error");
  }
});
at("brush").addEventListener("input", () => (editor.brush = number("brush")));
at("erase").addEventListener("change", () => (editor.erase = at("erase").checked));
for (const action of ["clear", "invert", "undo"]) at(action).addEventListener("click", () => editor[action]());
for (const button of document.querySelectorAll(".extend")) button.addEventListener("click", () => editor.extend(button.dataset.side));
at("generate").dataset.ready = "true";
