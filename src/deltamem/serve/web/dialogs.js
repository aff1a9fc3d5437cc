/** What went wrong, in words, and questions to whoever uses the page. */

import { getKey, setKey } from "./api.js";
import { $ } from "./dom.js";

/** Shows what went wrong until it is dismissed or something new is tried. @param {Error} error */
export function fail(error) {
  if (error.name === "AbortError") return;
  $("error").querySelector("p").textContent = error.message;
  $("error").hidden = false;
  if (error.status === 401) askKey();
}

/** Runs what someone asked for. @param {() => Promise<void> | void} action */
export async function attempt(action) {
  $("error").hidden = true;
  try {
    await action();
  } catch (error) {
    fail(error);
  }
}

/**
 * @param {{title: string, text?: string, label?: string, value?: string, yes: string, secret?: boolean}} question
 * @returns {Promise<?string>} what was typed; null if nothing is to be done
 */
export function ask({ title, text = "", label = "", value = "", yes, secret = false }) {
  const dialog = $("ask");
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-label").hidden = !label;
  $("ask-label").firstElementChild.textContent = label;
  Object.assign($("ask-input"), { value, type: secret ? "password" : "text", maxLength: 200 });
  $("ask-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  $(label ? "ask-input" : "ask-no").focus();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" ? $("ask-input").value : null), {
      once: true,
    }),
  );
}

/** Asks for a key; the window hears a "key" event once there is one. */
export async function askKey() {
  if ($("ask").open) return;
  const text = "This server needs a key: deltamem keys create. It is kept in this tab until it is closed.";
  const key = await ask({ title: "API key", text, label: "Key", value: getKey(), yes: "Use it", secret: true });
  if (key === null) return;
  setKey(key.trim());
  dispatchEvent(new Event("key"));
}
