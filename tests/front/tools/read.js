/** Reads texts as the page does: `node read.js CASES.json` prints what each text says, null where it is refused. */
import { readFileSync } from 'node:fs'
import { distinctColours, readable } from '../../../web/js/colours.js'
import { BOXES, instances, keysOf, MASKS, PROMPTS, parse, print } from '../../../web/js/editor/grammar.js'
import { boxAt } from '../../../web/js/editor/motion.js'
import { bitmapOf, maskOf, printMask } from '../../../web/js/editor/painted.js'
import { parsePhrases } from '../../../web/js/editor/phrases.js'
import { MOST_POINTS, parsePoints, withoutPoint, withPoint } from '../../../web/js/editor/points.js'
import { sceneOf } from '../../../web/js/editor/scene.js'
import { nameKey } from '../../../web/js/editor/text.js'
import { corners, inPixels } from '../../../web/js/editor/values.js'

/**
 * @typedef {import('../../../web/js/editor/grammar.js').Doc} Doc
 * @typedef {{width: number, height: number}} Size
 */

/**
 * What tracks say, in pixels: {name: [role, [[frame, value], ...]]}.
 * @param {Doc} doc
 * @param {Size} size
 */
export function told(doc, size) {
  const one = { boxes: box, prompts: prompt, masks: ({ mask }) => painted(mask) }[doc.kind.name]
  return instances(doc).map((instance) => [
    instance.name,
    instance.role,
    keysOf(instance).map(({ frame, value }) => [frame, value === null ? null : one(/** @type {any} */ (value), size)])
  ])
}

/** @param {any} value @param {Size} size */
const box = (value, size) => corners(value, size)

/** @param {any} value @param {Size} size */
const prompt = (value, size) => ({
  points: value.points.map((/** @type {any} */ { x, y, inside }) => [
    inPixels(x, size.width),
    inPixels(y, size.height),
    inside
  ]),
  box: value.box && corners(value.box, size),
  mask: painted(value.mask)
})

/** Read, drawn and written again. @param {import('../../../web/js/editor/painted.js').Mask | null} mask */
function painted(mask) {
  const again = mask && maskOf(bitmapOf(mask))
  return again && printMask(again).slice('mask '.length)
}

/** @type {Record<string, (text: string, size: Size) => unknown>} */
const READERS = {
  boxes: (text, size) => tracks(text, BOXES, size),
  prompts: (text, size) => tracks(text, PROMPTS, size),
  masks: (text, size) => tracks(text, MASKS, size),
  phrases: (text) => parsePhrases(text),
  points: (text) => points(text),
  frames: (text, size) => perFrame(text, size),
  colours: (text) => distinctColours(Number(text)).map(readable),
  keys: nameKey
}

/**
 * @param {string} text
 * @param {import('../../../web/js/editor/grammar.js').Kind} kind
 * @param {Size} size
 */
function tracks(text, kind, size) {
  const doc = parse(text, kind)
  if (doc.form === 'lines' && print(doc) !== text) throw new Error('printing has changed the text')
  const found = told(doc, size)
  if (!found.length) return null // Python wants at least one
  if (JSON.stringify(told(parse(print(doc), kind), size)) !== JSON.stringify(found))
    return 'printed, it says something else'
  return found
}

/**
 * Points, once another was put behind them and taken away again, and each was taken away.
 * @param {string} text
 */
function points(text) {
  const found = parsePoints(text)
  const told = JSON.stringify(found)
  const other = { x: 777.5, y: 3, frame: 5, percent: /** @type {[boolean, boolean]} */ ([false, true]) }
  const more = found.length < MOST_POINTS ? withPoint(text, other) : text
  const added = JSON.stringify(found.length < MOST_POINTS ? [...found, other] : found)
  if (JSON.stringify(parsePoints(more)) !== added) return 'with another, it says something else'
  if (JSON.stringify(parsePoints(withoutPoint(more, other))) !== told) return 'without it again, it says something else'
  const left = found.reduce((rest, point) => withoutPoint(rest, point), text)
  if (parsePoints(left).length) return `of nothing '${left}' is left`
  return found.map(({ x, y, frame, percent }) => [x, y, frame, percent])
}

/**
 * The box of each instance in each of 24 frames, held at the ends and not.
 * @param {string} text
 * @param {Size} size
 */
function perFrame(text, size) {
  const clip = { ...size, frames: 24, fps: 8, hold: true }
  return sceneOf(parse(text, BOXES), clip).tracks.map(({ keys }) =>
    [true, false].map((hold) => Array.from({ length: 24 }, (_, frame) => boxAt(keys, frame, hold)))
  )
}

/** @param {() => unknown} read */
function orNull(read) {
  try {
    return read()
  } catch {
    return null
  }
}

if (process.argv[1]?.endsWith('read.js')) {
  const { what, texts, width, height } = JSON.parse(readFileSync(process.argv[2], 'utf8'))
  const size = { width, height }
  console.log(JSON.stringify(texts.map((/** @type {string} */ text) => orNull(() => READERS[what](text, size)))))
}
