/* The place to answer a task that waits for input: its question, its choices or a text, and what became of the answer. */

import { paths } from "../core/api.js";
import { ANSWER, Question } from "../core/question.js";
import { fill, h, put } from "./dom.js";

const UNKNOWN = "unknown"; // a question that has not been heard of (yet)

export class AnswerBox {
  #question = new Question();
  #drawn = null; // for which question the fields were made
  #sending = false;
  #mine = null; // id of the answer that was given here

  /**
   * @param {object} options
   * @param {import("../core/api.js").Api} options.api
   * @param {string} options.id of the task
   * @param {(problem: Error) => void} options.failed is told of a refusal that is not about the answer
   * @param {() => void} options.left the reader has answered: the fields go, and the focus with them
   * @param {() => void} options.redraw
   */
  constructor({ api, id, failed, left, redraw }) {
    Object.assign(this, { api, id, failed, left, redraw });
    this.title = h("h2", { id: "answer-title" }, "Waits for an answer");
    this.words = h("p.words");
    this.fields = h("form", { onsubmit: (event) => (event.preventDefault(), this.#send(this.text.value.trim())) });
    this.refused = h("p.refused", { id: "answer-refused", role: "alert" });
    this.given = h("p.given", { role: "status" });
    this.text = h("textarea", { rows: "1", placeholder: "Your answer", "aria-label": "Your answer", "aria-describedby": "answer-refused", required: true });
    this.text.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.left();
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.fields.requestSubmit();
    });
    this.node = h("section", { id: "answer", hidden: true, "aria-labelledby": "answer-title" }, this.title, this.words, this.fields, this.refused, this.given);
  }

  /** Take one event of the task's channel. */
  take(event) {
    this.#question.take(event);
  }

  /** Draw as the task is now; nothing is shown while it does not wait. */
  draw(task) {
    const waits = task.status === "waiting_input";
    if (!waits) this.#question.goesOn();
    if (waits === this.node.hidden) this.node.hidden = !waits;
    if (!waits) return;
    const { asked, answer } = this.#question;
    const key = asked?.id ?? UNKNOWN;
    if (key !== this.#drawn) this.#make(key, asked);
    put(this.words, asked?.words || "It has not said what for.");
    this.fields.hidden = answer !== null;
    put(this.given, answer === null ? "" : `${answer.id === this.#mine ? "You" : (answer.sender ?? "Somebody")} answered “${answer.text}”. The task has not gone on yet.`);
  }

  /** Put the focus where the answer goes; tells whether there is such a place. */
  focus() {
    if (this.node.hidden || this.fields.hidden) return false;
    this.fields.querySelector("textarea, button").focus();
    return true;
  }

  #make(key, asked) {
    if (this.#drawn !== UNKNOWN) {
      // What was typed, and what was said of it, belong to another question.
      this.text.value = "";
      put(this.refused, "");
    }
    this.#drawn = key;
    const choices = asked?.choices ?? [];
    const buttons = choices.map((choice) => h("button", { type: "button", "aria-describedby": "answer-refused", onclick: () => this.#send(choice) }, choice));
    fill(this.fields, choices.length ? buttons : [this.text, h("button.primary", {}, "Answer")]);
  }

  async #send(content) {
    if (this.#sending || !content) return;
    this.#sending = true;
    put(this.refused, "");
    this.text.removeAttribute("aria-invalid");
    const question = this.#question.asked;
    try {
      const { cursor } = await this.api.send("POST", paths.answers(this.id), { content, question_id: question?.question_id ?? null });
      this.#mine = cursor;
      if (this.node.contains(document.activeElement)) this.left();
      this.take({ id: cursor, topic: ANSWER, payload: { content, question_id: question?.question_id } });
    } catch (problem) {
      const field = problem.answer?.errors?.find((error) => error.field === "content");
      put(this.refused, field ? `The answer ${field.detail}.` : problem.message);
      this.text.setAttribute("aria-invalid", "true");
      if (problem.needsKey) this.failed(problem);
    }
    this.#sending = false;
    this.redraw();
  }
}
