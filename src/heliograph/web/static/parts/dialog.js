/* Dialogs: one that asks before something is gone for good, and one with a form, whose errors stand at their fields. */

import { h, put } from "./dom.js";

let opened = 0; // for ids

function show(dialog, title) {
  title.id = `dialog-${++opened}`;
  dialog.setAttribute("aria-labelledby", title.id);
  document.body.append(dialog);
  dialog.showModal();
}

/**
 * Ask before something that can't be taken back, and do it.
 *
 * @param {object} options
 * @param {string} options.title a question
 * @param {string} options.text what will be gone
 * @param {string} options.action the word on the button
 * @param {() => Promise<void>} options.does
 * @returns {Promise<boolean>} whether it was done
 */
export function confirmed({ title, text, action, does }) {
  return ask({ title, text, fields: [], action, danger: true, does });
}

/**
 * Let the reader fill in a form, and send it; what the service refuses is said at its field, and may be mended.
 *
 * @param {object} options
 * @param {string} options.title
 * @param {string} [options.text] what it is for
 * @param {{name: string, label: string, hint?: string, kind?: string, value?: *, options?: string[], required?: boolean, most?: number, rows?: number}[]} options.fields
 *   `kind`: text, password, area, choice or check
 * @param {string} options.action the word on the button
 * @param {boolean} [options.danger] whether something will be gone
 * @param {(values: object) => Promise<void>} options.does
 * @returns {Promise<boolean>} whether it was done
 */
export function ask({ title, text = "", fields, action, danger = false, does }) {
  const made = fields.map((field) => fieldOf(field));
  const refused = h("p.refused", { role: "alert" });
  const button = h(danger ? "button.danger" : "button.primary", {}, action);
  const cancel = h("button", { type: "button", autofocus: danger, onclick: () => dialog.close() }, "Cancel");
  const heading = h("h2", {}, title);
  const form = h("form", { method: "dialog" }, heading, text && h("p", {}, text), ...made.map(({ node }) => node), refused, h("div.buttons", {}, button, cancel));
  const dialog = h(fields.length > 2 ? "dialog.wide" : "dialog", {}, form);
  let done = false;

  async function send(event) {
    event.preventDefault();
    if (button.disabled) return;
    button.disabled = true;
    for (const { say } of made) say("");
    put(refused, "");
    try {
      await does(Object.fromEntries(made.map(({ name, read }) => [name, read()])));
      done = true;
      dialog.close();
    } catch (problem) {
      tell(problem);
    }
    button.disabled = false;
  }

  /* What is wrong stands at its field, and whatever is no field's below all of them. */
  function tell(problem) {
    const rest = [];
    for (const { field, detail } of problem.answer?.errors ?? []) {
      const owner = made.find(({ covers }) => covers.some((name) => field === name || field.startsWith(`${name}.`) || field.startsWith(`${name}[`)));
      if (owner) owner.say(field === owner.name ? detail : `${field}: ${detail}`);
      else rest.push(`${field}: ${detail}`);
    }
    const placed = (problem.answer?.errors ?? []).length > 0;
    put(refused, placed ? rest.join("; ") : problem.message);
    made.find(({ control }) => control.hasAttribute("aria-invalid"))?.control.focus();
  }

  form.addEventListener("submit", send);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(done);
    });
    show(dialog, heading);
    if (!danger) (made[0]?.control ?? button).focus();
    made[0]?.control.select?.();
  });
}

function fieldOf({ name, label, hint = "", kind = "text", value = "", options = [], required = false, most = null, rows = 3, covers = [] }) {
  const id = `field-${++opened}`;
  const described = { id, "aria-describedby": `${id}-hint ${id}-refused`, required, maxlength: most };
  const control =
    kind === "area"
      ? h("textarea", { ...described, rows, spellcheck: "false" })
      : kind === "choice"
        ? h("select", described, ...options.map((option) => new Option(option, option)))
        : h("input", { ...described, type: kind === "check" ? "checkbox" : kind, autocomplete: kind === "password" ? "new-password" : "off" });
  if (kind === "check") control.checked = Boolean(value);
  else control.value = value ?? "";
  const refused = h("p.refused", { id: `${id}-refused` });
  const about = h("p.about", { id: `${id}-hint` }, hint);
  const title = h("label", { for: id }, label);
  return {
    name,
    control,
    covers: [name, ...covers],
    node: h(kind === "check" ? "div.field.check" : "div.field", {}, ...(kind === "check" ? [control, title] : [title, control]), about, refused),
    read: () => (kind === "check" ? control.checked : control.value.trim()),
    say(text) {
      put(refused, text);
      if (text) control.setAttribute("aria-invalid", "true");
      else control.removeAttribute("aria-invalid");
    },
  };
}
