/** What a document shows: instances with their colours and keys in pixels. Made anew after every edit; plain data. */
import { css, distinctColours, readable } from '../colours.js'
import { setKey } from './edits.js'
import { BOXES, instances, keysOf } from './grammar.js'
import { boxAt, problemOf } from './motion.js'
import { boxOf, corners, inPixels, lengthOf } from './values.js'

/** @typedef {import('./grammar.js').Doc} Doc */
/** @typedef {import('./values.js').Corners} Corners */
/** @typedef {import('./values.js').Size} Size */
/** x and y in pixels. @typedef {{x: number, y: number, inside: boolean}} Dot */
/** @typedef {import('./painted.js').Mask} Mask */
/** off: it leaves here. @typedef {{frame: number, box: Corners | null, dots: Dot[], mask: Mask | null, off: boolean}} Key */
/**
 * @typedef {object} Track
 * @property {string} name
 * @property {string | null} role
 * @property {import('../colours.js').Colour} colour
 * @property {string} ink the same for CSS
 * @property {Key[]} keys by frame
 * @property {string} problem why the library would refuse it; empty where it would not
 */
/** shares: numbers of 0 to 1 are parts of the frame. @typedef {{tracks: Track[], shares: boolean}} Scene */
/** @typedef {{width: number, height: number, frames: number, fps: number, hold: boolean}} Clip */

/**
 * @param {Doc} doc
 * @param {Clip} clip
 * @returns {Scene}
 */
export function sceneOf(doc, clip) {
  const shares = inShares(doc, clip)
  const size = shares ? { width: 1, height: 1 } : clip
  const found = instances(doc)
  const colours = distinctColours(found.length).map(readable)
  const tracks = found.map((instance, i) => {
    const keys = keysOf(instance).map(({ frame, value }) => keyOf(doc, frame, value, size))
    if (shares)
      for (const key of keys)
        key.box = key.box && /** @type {Corners} */ (key.box.map((v, j) => v * (j % 2 ? clip.height : clip.width)))
    const problem = doc.kind === BOXES ? problemOf(keys, clip.frames, clip) : ''
    return { name: instance.name, role: instance.role, colour: colours[i], ink: css(colours[i]), keys, problem }
  })
  return { tracks, shares }
}

/**
 * @param {Doc} doc
 * @param {number} frame
 * @param {import('./grammar.js').Value} value
 * @param {Size} size
 * @returns {Key}
 */
function keyOf(doc, frame, value, size) {
  const key = { frame, box: null, dots: [], mask: null, off: value === null }
  if (value === null) return key
  if (doc.kind === BOXES) return { ...key, box: corners(/** @type {import('./values.js').Box} */ (value), size) }
  const { points, box, mask } = /** @type {import('./values.js').Prompt} */ (value)
  const dots = points.map(({ x, y, inside }) => ({
    x: inPixels(x, size.width),
    y: inPixels(y, size.height),
    inside
  }))
  return { ...key, box: box && corners(box, size), dots, mask }
}

/**
 * Whether all numbers lie in 0 to 1 and some are fractions: the library reads them as shares of the frame then.
 * @param {Doc} doc
 * @param {Size} size
 */
function inShares(doc, size) {
  if (doc.kind !== BOXES) return false
  const values = instances(doc).flatMap((one) =>
    keysOf(one).flatMap(({ value }) => (value ? corners(/** @type {import('./values.js').Box} */ (value), size) : []))
  )
  return values.length > 0 && values.every((v) => v >= 0 && v <= 1) && values.some((v) => v !== 0 && v !== 1)
}

/**
 * The document in percent where it was in shares: an edit may bring a number that is none.
 * @param {Doc} doc
 * @param {Clip} clip
 * @returns {Doc}
 */
export function withoutShares(doc, clip) {
  const scene = sceneOf(doc, clip)
  if (!scene.shares) return doc
  return scene.tracks.reduce(
    (made, { name, keys }) =>
      keys.reduce((one, { frame, box }) => (box ? setKey(one, name, frame, boxOf(box, clip, true)) : one), made),
    doc
  )
}

/**
 * A key as the document would have it: in percent where its instance, or else the first one, is typed so.
 * @param {Doc} doc
 * @param {string} name
 * @param {Pick<Key, 'box' | 'dots'>} key
 * @param {Size} size
 * @returns {import('./grammar.js').Value}
 */
export function keyValue(doc, name, { box, dots }, size) {
  const percent = doc.form === 'lines' && inPercent(doc, name)
  const made = box && boxOf(box, size, percent)
  if (doc.kind === BOXES) return made
  const points = dots.map(({ x, y, inside }) => ({
    x: lengthOf(Math.max(x, 0), size.width, percent),
    y: lengthOf(Math.max(y, 0), size.height, percent),
    inside
  }))
  return { points, box: made, mask: null }
}

/**
 * @param {Doc} doc
 * @param {string} name
 */
function inPercent(doc, name) {
  const found = instances(doc)
  const own = found.filter((one) => one.name === name)
  for (const instance of [...own, ...found]) {
    for (const { value } of keysOf(instance)) {
      const lengths = Array.isArray(value) ? value : (value?.box ?? value?.points.map(({ x }) => x) ?? [])
      if (lengths.length) return lengths.every((one) => one.percent)
    }
  }
  return false
}

/**
 * What of a track is to be seen in a frame: prompts hold in their own frame alone.
 * @param {Doc} doc
 * @param {Track} track
 * @param {number} frame
 * @param {boolean} hold
 * @returns {{box: Corners | null, dots: Dot[], mask: Mask | null}}
 */
export function seenAt(doc, track, frame, hold) {
  if (doc.kind === BOXES) return { box: boxAt(track.keys, frame, hold), dots: [], mask: null }
  const key = track.keys.find((one) => one.frame === frame)
  return { box: key?.box ?? null, dots: key?.dots ?? [], mask: key?.mask ?? null }
}
