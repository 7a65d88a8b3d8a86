/**
 * What a choice looks like at one moment of the clip: the picture and its legend, out of maps that are here.
 */
import { heldBy, wantedOf } from './choice.js'
import { tokensOf } from './exhibit.js'
import { rampOfColour, rampOfDifference, rampOfMap } from './heat.js'
import { difference, differenceScale, frameValues, scaleOf, unit } from './slices.js'
import { bytesOf } from './source.js'
import { percents, rangesText } from './text.js'

/** @typedef {import('./choice.js').Choice} Choice */
/** @typedef {import('./exhibit.js').Exhibit} Exhibit */
/** @typedef {import('./stage.js').Picture} Picture */
/** @typedef {import('./heat.js').Ramp} Ramp */

/**
 * A line of the legend: a name, its colour, the ends of its scale, and the colours in between.
 * @typedef {{name: string, colour: readonly number[], low: string, high: string, colours: Ramp}} Row
 */

/**
 * `missing` says why there is no heat, in words.
 * @typedef {{picture: Picture, rows: Row[], missing: string}} Scene
 */

const WHITE = [240, 242, 247]

/**
 * Which pixel frame and token frame a choice stands at in a capture.
 * @param {Exhibit} exhibit
 * @param {Choice} choice
 * @returns {[number, number]}
 */
export function momentOf(exhibit, choice) {
  const pictures = exhibit.manifest.streams[Math.min(choice.stream, exhibit.manifest.streams.length - 1)].pictures
  return pictures[Math.min(choice.picture, pictures.length - 1)]
}

/**
 * Places of names among the entities of a capture.
 * @param {Exhibit} exhibit
 * @param {Choice} choice
 * @param {string[]} names
 * @returns {number[]}
 */
export function placesOfNames(exhibit, choice, names) {
  const held = exhibit.manifest.streams[choice.stream]?.maps[choice.kind]
  return held ? names.map((name) => held.entities.indexOf(name)).filter((place) => place >= 0) : []
}

/**
 * The scene of one capture.
 * @param {Exhibit} exhibit
 * @param {Choice} choice
 * @param {string[]} names
 * @param {{row: number, column: number} | null} pin
 * @param {ImageBitmap | null} bitmap
 * @param {boolean} [read] with the masks and points that were read off the maps
 * @returns {Scene}
 */
export function sceneOf(exhibit, choice, names, pin, bitmap, read = false) {
  const wanted = wantedOf(exhibit.manifest, choice)
  const [, token] = momentOf(exhibit, choice)
  const base = emptyPicture(exhibit, choice, token, pin, bitmap, names)
  if (read && wanted) {
    base.masks.push(...readMasks(exhibit, wanted, token))
    base.ways = readWays(exhibit, choice, wanted)
  }
  if (!wanted) return { picture: base, rows: [], missing: 'not recorded in this capture' }
  const held = heldBy(exhibit.manifest, choice)
  /** @type {Row[]} */
  const rows = []
  let absent = false
  const entities = placesOfNames(exhibit, choice, names)
  for (const entity of entities) {
    const slice = exhibit.map(wanted, entity)
    if (!slice) continue
    absent = !slice.seen[token]
    const scale = scaleOf(slice, choice.scale === 'frame' ? token : null)
    const colour = held.colours[entity]
    const single = entities.length === 1
    const colours = single
      ? rampOfMap(tableOf(exhibit, choice), choice.strength)
      : rampOfColour(colour, choice.strength)
    const [low, high] = percents(...scale)
    rows.push({ name: held.entities[entity], colour, low, high, colours })
    if (!absent) base.heats.push({ values: unit(frameValues(slice, token), scale), colours })
  }
  const missing = !entities.length
    ? 'no such word in this capture'
    : absent
      ? 'nothing was recorded in this frame with these layers and steps'
      : ''
  return { picture: base, rows, missing }
}

/**
 * The masks that were read off these layers and steps, in one token frame; none until they are here.
 * @param {Exhibit} exhibit
 * @param {import('./source.js').Wanted} wanted
 * @param {number} token
 * @returns {Picture['masks']}
 */
function readMasks(exhibit, wanted, token) {
  const { grid } = exhibit.manifest.streams[wanted.stream]
  const masks = exhibit.reading(wanted)?.masks ?? []
  return masks.map(({ colour, bits }) => ({ colour, tokens: tokensOf(bytesOf(bits), grid, token), dashed: true }))
}

/**
 * The ways of followed points up to the picture that is shown; none until they are here.
 * @param {Exhibit} exhibit
 * @param {Choice} choice
 * @param {import('./source.js').Wanted} wanted
 * @returns {NonNullable<Picture['ways']>}
 */
export function readWays(exhibit, choice, wanted) {
  const reading = exhibit.reading(wanted)
  if (!reading) return []
  const [frame, token] = momentOf(exhibit, choice)
  const film = exhibit.manifest.streams[wanted.stream].pictures.some(([number]) => number > 0)
  const last = film ? frame : reading.ends[token]
  return reading.points.map(({ colour, xy, seen }) => ({ colour, places: xy.slice(0, last + 1), found: seen[last] }))
}

/**
 * The scene of what one capture has more of a word than another.
 * @param {Exhibit} one
 * @param {Exhibit} other
 * @param {Choice} choice
 * @param {string} name
 * @param {ImageBitmap | null} bitmap
 * @returns {Scene}
 */
export function differenceScene(one, other, choice, name, bitmap) {
  const [, token] = momentOf(one, choice)
  const picture = emptyPicture(one, choice, token, null, bitmap, [name])
  const parts = [one, other].map((exhibit) => {
    const wanted = wantedOf(exhibit.manifest, choice)
    const [entity] = placesOfNames(exhibit, choice, [name])
    return wanted && entity !== undefined ? exhibit.map(wanted, entity) : undefined
  })
  const [first, second] = parts
  if (!first || !second) return { picture, rows: [], missing: 'both captures need this word, kind, layers and steps' }
  if (first.shape.join() !== second.shape.join()) {
    return { picture, rows: [], missing: `token grids differ: ${first.shape.join('x')} and ${second.shape.join('x')}` }
  }
  const values = difference(first, second, token)
  const top = differenceScale(first, second, choice.scale === 'frame' ? token : null)
  const colours = rampOfDifference(choice.strength)
  const [, high] = percents(0, top)
  const row = { name: `${name}, difference`, colour: WHITE, low: `-${high}`, high: `+${high}`, colours }
  if (!values) return { picture, rows: [row], missing: 'this frame was not recorded in both' }
  const place = (/** @type {number} */ value) => (top ? Math.min(1, Math.max(0, value / top / 2 + 0.5)) : 0.5)
  picture.heats.push({ values: values.map(place), colours })
  return { picture, rows: [row], missing: '' }
}

/**
 * @param {Exhibit} exhibit
 * @param {Choice} choice
 */
function tableOf(exhibit, choice) {
  const tables = exhibit.manifest.colormaps
  return bytesOf(tables[choice.colours] ?? Object.values(tables)[0])
}

/**
 * @param {Exhibit} exhibit
 * @param {Choice} choice
 * @param {number} token
 * @param {{row: number, column: number} | null} pin
 * @param {ImageBitmap | null} bitmap
 * @param {string[]} names
 * @returns {Picture}
 */
function emptyPicture(exhibit, choice, token, pin, bitmap, names) {
  const number = Math.min(choice.stream, exhibit.manifest.streams.length - 1)
  const stream = exhibit.manifest.streams[number]
  /** @type {Picture['masks']} */
  const masks = choice.outlines
    ? stream.masks.map(({ colour }, i) => ({ colour, tokens: exhibit.mask(number, i, token) }))
    : []
  // Among words a ring says where somebody can be asked; among instances whose map this is.
  const points = stream.maps.v2v
  const shown = Object.entries(points?.points ?? {}).filter(
    ([name, [frame]]) => frame === token && (choice.kind !== 'v2v' || names.includes(name))
  )
  const marks = shown.map(([name, [, row, column]]) => ({
    colour: points.colours[points.entities.indexOf(name)],
    row,
    column,
    pinned: true
  }))
  if (pin) marks.push({ colour: [240, 242, 247], ...pin, pinned: false })
  return {
    bitmap,
    size: stream.size,
    box: stream.box,
    rows: stream.grid[1],
    columns: stream.grid[2],
    heats: [],
    smooth: choice.smooth,
    strength: choice.strength,
    masks,
    marks
  }
}

/**
 * What the picture is of, in a line: layers, steps, noise, heads.
 * @param {Exhibit} exhibit
 * @param {Choice} choice
 * @returns {string}
 */
export function captionOf(exhibit, choice) {
  const wanted = wantedOf(exhibit.manifest, choice)
  const held = exhibit.manifest.streams[choice.stream]?.maps[choice.kind]
  if (!wanted || !held) return 'not recorded in this capture'
  const sigmas = exhibit.manifest.steps.filter(({ index }) => wanted.steps.includes(index)).map(({ sigma }) => sigma)
  const [first, last] = [sigmas[0], sigmas[sigmas.length - 1]].map((sigma) => `${Number(sigma.toPrecision(2))}`)
  const layers = wanted.layers.length === held.layers.length ? 'all layers' : counted('layer', wanted.layers)
  const steps = wanted.steps.length === exhibit.steps.length ? 'all steps' : counted('step', wanted.steps)
  const head = wanted.head === null ? '' : ` · head ${wanted.head}`
  return `${layers} · ${steps} · sigma ${first === last ? first : `${first} to ${last}`}${head}`
}

/**
 * "layer 7", "layers 7, 11-13".
 * @param {string} what
 * @param {number[]} numbers
 * @returns {string}
 */
export function counted(what, numbers) {
  return `${what}${numbers.length > 1 ? 's' : ''} ${rangesText(numbers)}`
}

/**
 * The colours of a legend's bar, from low to high.
 * @param {Ramp} colours
 * @param {number} count
 * @returns {string[]}
 */
export function barColours(colours, count) {
  return Array.from({ length: count }, (_, i) => {
    const at = 4 * Math.round((i / (count - 1)) * 255)
    const alpha = colours[at + 3] / 255
    const [red, green, blue] = [0, 1, 2].map((k) => Math.round(colours[at + k] * alpha))
    return `rgb(${red}, ${green}, ${blue})`
  })
}
