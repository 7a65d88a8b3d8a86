/**
 * The viewer by keyboard.
 */
import { clicked, kindsOf, moved } from './choice.js'
import { make } from './parts.js'

/** @typedef {import('./panel.js').Viewer} Viewer */

const KEYS = [
  ['← →', 'a frame back, on'],
  ['Space', 'play, stop'],
  ['↑ ↓', 'a layer up, down'],
  ['Shift ← →', 'a step back, on'],
  ['1 – 9', 'a word alone; with Shift added'],
  ['0', 'all words'],
  ['A', 'all layers and steps'],
  ['K', 'words, instances'],
  ['C', 'smooth, token cells'],
  ['S', 'one scale, one a frame'],
  ['O', 'outlines of the masks'],
  ['R', 'masks and findings, read off the maps'],
  ['Esc', 'close']
]

/** @returns {HTMLElement} the list of keys, hidden until somebody asks */
export function keyHelp() {
  const rows = KEYS.flatMap(([key, what]) => [make('kbd', { text: key }), make('span', { text: what })])
  const element = make('div', { class: 'help', role: 'dialog', label: 'Keys' }, rows)
  element.addEventListener('click', () => {
    element.hidden = true
  })
  element.hidden = true
  return element
}

/**
 * @param {Viewer} viewer
 * @param {KeyboardEvent} event
 */
export function pressed(viewer, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return
  const target = /** @type {HTMLElement} */ (event.composedPath()[0])
  if (target.tagName === 'SELECT' || (target.tagName === 'BUTTON' && [' ', 'Enter'].includes(event.key))) return
  const meant = actionOf(viewer, event)
  if (!meant) return
  meant()
  event.preventDefault()
  event.stopPropagation()
}

/**
 * What a key means.
 * @param {Viewer} viewer
 * @param {KeyboardEvent} event
 * @returns {(() => void) | undefined}
 */
function actionOf(viewer, { key, code, shiftKey }) {
  const { choice, held, exhibit, stream } = viewer
  const digit = /^Digit([1-9])$/.exec(code)
  const name = digit && held.entities[+digit[1] - 1]
  if (name) return () => viewer.set({ names: clicked(choice.names, name, shiftKey, held.entities) })
  const last = stream.pictures.length - 1
  /** @param {1 | -1} direction */
  const sideways = (direction) =>
    shiftKey
      ? viewer.set({ steps: moved(choice.steps, exhibit.steps, direction) })
      : viewer.seek(Math.min(last, Math.max(0, choice.picture + direction)))
  const kinds = kindsOf(viewer.manifest, choice.stream)
  /** @type {Record<string, () => void>} */
  const actions = {
    arrowleft: () => sideways(-1),
    arrowright: () => sideways(1),
    arrowup: () => viewer.set({ layers: moved(choice.layers, held.layers, -1) }),
    arrowdown: () => viewer.set({ layers: moved(choice.layers, held.layers, 1) }),
    home: () => viewer.seek(0),
    end: () => viewer.seek(last),
    ' ': () => viewer.toggle(),
    0: () => viewer.set({ names: held.entities }),
    a: () => viewer.everything(),
    k: () => viewer.setKind(kinds[(kinds.indexOf(choice.kind) + 1) % kinds.length]),
    c: () => viewer.set({ smooth: !choice.smooth }),
    s: () => viewer.set({ scale: choice.scale === 'clip' ? 'frame' : 'clip' }),
    o: () => viewer.set({ outlines: !choice.outlines }, false),
    r: () => viewer.read(!viewer.reads),
    '?': () => viewer.showHelp(),
    escape: () => viewer.escape()
  }
  return Object.hasOwn(actions, key.toLowerCase()) ? actions[key.toLowerCase()] : undefined
}
