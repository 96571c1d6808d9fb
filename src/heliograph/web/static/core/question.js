/* What a task asks, and what it was answered, from the events of its channel. No DOM here. */

import { isAfter } from "./ids.js";

export const QUESTION = "task.question";
export const ANSWER = "task.input";

const FIELDS = ["content", "answer", "input", "text", "message"]; // where an answer may stand; the first that is there counts

/** The words of a question; empty where its event has none. */
export function wordsOf(payload) {
  return typeof payload.question === "string" ? payload.question : "";
}

export class Question {
  /** The newest question: `{id, question_id, words, choices}`; null: none is known. */
  asked = null;
  /** What it was answered: `{id, text, sender}`. */
  answer = null;

  /** Take one event of the task's channel, in whatever order they come; tells whether it was about this. */
  take({ id, topic, payload, sender }) {
    if (topic === QUESTION) {
      if (this.asked && !isAfter(id, this.asked.id)) return false;
      const { question_id = null, choices } = payload;
      this.asked = { id, question_id, words: wordsOf(payload), choices: Array.isArray(choices) ? choices.filter((choice) => typeof choice === "string") : [] };
      if (this.answer && !isAfter(this.answer.id, id)) this.answer = null;
      return true;
    }
    if (topic !== ANSWER) return false;
    const mine = payload.question_id == null || this.asked === null || payload.question_id === this.asked.question_id;
    if (!mine || (this.asked && !isAfter(id, this.asked.id)) || (this.answer && !isAfter(this.answer.id, id))) return false;
    const content = FIELDS.map((field) => payload[field]).find((value) => value !== undefined) ?? "";
    this.answer = { id, text: typeof content === "string" ? content : JSON.stringify(content), sender };
    return true;
  }

  /** The task goes on: what it waits for next without a question is another answer. */
  goesOn() {
    if (this.asked === null) this.answer = null;
  }
}
