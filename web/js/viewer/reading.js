/**
 * The card of what was read off the maps: who was mistaken for whom, attention sinks, and what could not be told.
 */
import { make } from './parts.js'
import { rangesText } from './text.js'

/** @typedef {import('./panel.js').Viewer} Viewer */
/** @typedef {import('./source.js').Reading} Reading */

/**
 * @param {Viewer} viewer
 * @param {Reading} reading
 * @returns {HTMLElement[]} what stands in the card
 */
export function readingCard(viewer, { kind, layers, findings, lines }) {
  const close = make('button', { class: 'close', type: 'button', text: '✕', label: 'Close' })
  close.addEventListener('click', () => viewer.read(false))
  const title = `Read off the maps: ${kind}, layers ${rangesText(layers) || 'none'}`
  const found = findings.map((finding) => {
    const button = make('button', {
      class: 'finding',
      type: 'button',
      text: finding.text,
      title: 'Look at its first frame and its steps'
    })
    button.addEventListener('click', () => viewer.lookAt(finding))
    return button
  })
  return [
    make('div', { class: 'head' }, [make('span', { text: title }), close]),
    ...found,
    ...lines.map((text) => make('div', { class: 'line', text }))
  ]
}
