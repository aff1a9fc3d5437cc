/** The page's elements: found by their id, or made. */

/** @param {string} id @returns {any} */
export const $ = (id) => document.getElementById(id);

/**
 * @param {string} name @param {object} [properties] @param {string} [text] always a text node
 * @returns {HTMLElement}
 */
export function element(name, properties = {}, text = "") {
  const made = Object.assign(document.createElement(name), properties);
  if (properties.role) made.setAttribute("role", properties.role);
  if (text) made.append(text);
  return made;
}
