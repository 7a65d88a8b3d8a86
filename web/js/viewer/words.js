/**
 * The prompt as words: those that were bound are chips in their colours, which show their maps.
 */
import { css, make } from './parts.js'

/** @typedef {import('./source.js').Stream} Stream */
/** @typedef {import('./source.js').Held} Held */

/**
 * @param {Stream} stream
 * @param {Held} held
 * @param {{over: (name: string | null) => void, click: (name: string, more: boolean) => void, all: () => void}} heard
 * @returns {{element: HTMLElement, show: (names: string[]) => void}}
 */
export function wordChips(stream, held, heard) {
  /** @type {[string, HTMLButtonElement][]} */
  const chips = []
  /**
   * @param {string} text
   * @param {string} name
   */
  const chip = (text, name) => {
    const colour = held.colours[held.entities.indexOf(name)]
    const place = held.entities.indexOf(name) + 1
    const button = make('button', {
      class: 'chip',
      type: 'button',
      text,
      title: `${name}: click to look at it alone, Shift or Ctrl to add it${place <= 9 ? ` (key ${place})` : ''}`,
      on: {
        pointerenter: () => heard.over(name),
        pointerleave: () => heard.over(null),
        focus: () => button.matches(':focus-visible') && heard.over(name),
        blur: () => heard.over(null),
        click: (event) => heard.click(name, event.shiftKey || event.ctrlKey || event.metaKey)
      }
    })
    button.dataset.name = name
    button.style.setProperty('--own', css(colour))
    chips.push([name, button])
    return button
  }
  /** @type {Set<string>} */
  const shown = new Set()
  const pieces = stream.prompt.map(({ text, names }) => {
    const name = names.find((each) => held.entities.includes(each))
    if (name === undefined) return make('span', { class: 'plain', text })
    shown.add(name)
    return chip(text.trim() || text, name)
  })
  // What has a map and no place of its own in the prompt: points, words under another's.
  const more = held.entities.filter((name) => !shown.has(name)).map((name) => chip(name, name))
  const all = make('button', { class: 'all', type: 'button', text: 'all', title: 'Look at all of them (key 0)' })
  all.addEventListener('click', heard.all)
  const element = make('div', { class: 'words', role: 'group', label: 'Words of the prompt' }, [
    ...pieces,
    ...more,
    held.entities.length > 1 ? all : null
  ])
  return {
    element,
    show(names) {
      for (const [name, button] of chips) button.setAttribute('aria-pressed', `${names.includes(name)}`)
    }
  }
}
