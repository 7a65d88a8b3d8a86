/**
 * What the scripts of all pages share: elements made of text, never of HTML, and light or dark.
 */

const COLOURS = /\((red|green|blue|yellow|magenta|cyan|orange|white) (?:box|mask)\)/g

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
export function at(id) {
  const found = document.getElementById(id)
  if (!found) throw new Error(`the page has no ${id}`)
  return found
}

/**
 * @param {string} tag
 * @param {string} [className]
 * @param {(Node | string)[]} children
 */
export function made(tag, className = '', ...children) {
  const element = document.createElement(tag)
  if (className) element.className = className
  element.append(...children)
  return element
}

/** @param {string} text a text in which "(red box)" or "(red mask)" gets a patch of that colour */
export function told(text) {
  const line = made('span')
  let from = 0
  for (const found of text.matchAll(COLOURS)) {
    line.append(
      text.slice(from, found.index),
      made('span', 'box', '(', made('span', `swatch ${found[1]}`), found[0].slice(1))
    )
    from = found.index + found[0].length
  }
  line.append(text.slice(from))
  return line
}

/** From light to dark, or back. */
export function themed() {
  const root = document.documentElement
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches
  root.dataset.theme = dark ? 'light' : 'dark'
}
