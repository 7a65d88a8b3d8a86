/**
 * The card about a place of the clip that was clicked: which words it looks at, and whose mask it lies in.
 */
import { rankedWords, wantedOf } from './choice.js'
import { css, make } from './parts.js'
import { momentOf } from './picture.js'
import { meanOf, valueAt } from './slices.js'

/** @typedef {import('./panel.js').Viewer} Viewer */
/** @typedef {{row: number, column: number}} Token */

/**
 * Instances whose mask holds a token at this moment, and of which it was recorded where they look.
 * @param {Viewer} viewer
 * @param {Token} token
 * @returns {string[]}
 */
export function instancesAt({ exhibit, choice, stream }, { row, column }) {
  const [, frame] = momentOf(exhibit, choice)
  const looks = stream.maps.v2v?.entities ?? []
  const at = row * stream.grid[2] + column
  return stream.masks.flatMap(({ name }, i) =>
    looks.includes(name) && exhibit.mask(choice.stream, i, frame)[at] ? [name] : []
  )
}

/**
 * Pinned points in a token at this moment.
 * @param {Viewer} viewer
 * @param {Token} token
 * @returns {string[]}
 */
function pointsAt({ exhibit, choice, stream }, { row, column }) {
  const [, frame] = momentOf(exhibit, choice)
  const points = Object.entries(stream.maps.v2v?.points ?? {})
  return points.flatMap(([name, place]) => (place.join() === [frame, row, column].join() ? [name] : []))
}

/**
 * @param {Viewer} viewer
 * @param {Token} token
 * @returns {HTMLElement[]} what stands in the card
 */
export function placeCard(viewer, token) {
  const lookedAt = viewer.choice.kind !== 'v2t'
  const close = make('button', { class: 'close', type: 'button', text: '✕', label: 'Close' })
  close.addEventListener('click', () => viewer.setPin(null))
  const points = pointsAt(viewer, token)
  const names = lookedAt ? points : [...instancesAt(viewer, token), ...points]
  const looks = names.map((name) => look(`Where ${name} looks`, '', () => viewer.lookFrom(name)))
  if (viewer.options.pin && !points.length) {
    const title = 'The next run records where this place looks in the whole clip'
    looks.push(look('Pin: where does it look?', title, () => viewer.pinPlace(token)))
  }
  return [
    make('div', { class: 'head' }, [make('span', { text: lookedAt ? 'Looked at by' : 'This place looks at' }), close]),
    ...ranking(viewer, token),
    ...looks
  ]
}

/**
 * @param {string} text
 * @param {string} title
 * @param {() => void} click
 */
function look(text, title, click) {
  return make('button', { class: 'looks', type: 'button', text, title, on: { click } })
}

/**
 * @param {Viewer} viewer
 * @param {Token} token
 */
function ranking({ exhibit, choice, held, stream }, token) {
  const wanted = wantedOf(exhibit.manifest, choice)
  const [, frame] = momentOf(exhibit, choice)
  const place = token.row * stream.grid[2] + token.column
  const found = held.entities.flatMap((name, entity) => {
    const slice = wanted && exhibit.map(wanted, entity)
    return slice ? [{ name, value: valueAt(slice, frame, place), mean: meanOf(slice) }] : []
  })
  const ranked = rankedWords(found)
  if (!ranked.length) return [make('div', { text: found.length ? 'not recorded in this frame' : '...' })]
  const top = ranked[0].value || 1
  return ranked.map(({ name, value, times }) => {
    const bar = make('i')
    bar.style.background = css(held.colours[held.entities.indexOf(name)])
    bar.style.width = `${(100 * value) / top}%`
    const title = `${(value * 100).toPrecision(3)} %, ${times.toFixed(1)} times its mean over the clip`
    return make('div', { class: 'rank', title }, [
      bar,
      make('span', { text: name }),
      make('span', { class: 'value', text: `${(value * 100).toPrecision(2)} % · ${times.toFixed(1)}×` })
    ])
  })
}
